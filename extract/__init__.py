"""The stage `extract`: images, or vectors from elsewhere, become a feature store."""

from sdc.extract.encoder import Encoder, features_of_images, recorded_encoder
from sdc.extract.image_loader import batches, load_batch
from sdc.extract.images import LONGEST, SCALES, Preprocessing
from sdc.extract.import_vectors import ImportSettings, import_features
from sdc.extract.run import ExtractSettings, extract_features, make_parts
from sdc.extract.subsample import stratified
from sdc.extract.vector_files import read_vectors

__all__ = [
    "LONGEST",
    "SCALES",
    "Encoder",
    "ExtractSettings",
    "ImportSettings",
    "Preprocessing",
    "batches",
    "extract_features",
    "features_of_images",
    "import_features",
    "load_batch",
    "make_parts",
    "read_vectors",
    "recorded_encoder",
    "stratified",
]
