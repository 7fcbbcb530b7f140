"""The stage `extract`: images, or vectors from elsewhere, become a feature store."""

from sdc.extract.code_files import find_codes, packed_codes, read_codes
from sdc.extract.encoder import Encoder, features_of_images, recorded_encoder
from sdc.extract.image_loader import batches, load_batch
from sdc.extract.images import LONGEST, SCALES, Preprocessing
from sdc.extract.import_vectors import ImportSettings, OpenedImport, import_features, opened_import
from sdc.extract.run import ExtractSettings, extract_features, make_parts
from sdc.extract.subsample import stratified
from sdc.extract.vector_files import read_vectors

__all__ = [
    "LONGEST",
    "SCALES",
    "Encoder",
    "ExtractSettings",
    "ImportSettings",
    "OpenedImport",
    "Preprocessing",
    "batches",
    "extract_features",
    "features_of_images",
    "find_codes",
    "import_features",
    "load_batch",
    "make_parts",
    "opened_import",
    "packed_codes",
    "read_codes",
    "read_vectors",
    "recorded_encoder",
    "stratified",
]
