"""Sets of images, with labels or a ground truth and splits."""

from sdc.extract.datasets.base import About, Dataset, Images, LoadOptions, Prefixes
from sdc.extract.datasets.registry import DATASETS, about_dataset, catalogue, load_dataset
from sdc.extract.datasets.revisited import PROTOCOL as REVISITED_PROTOCOL
from sdc.extract.datasets.revisited import Revisited, read_groundtruth

__all__ = [
    "DATASETS",
    "REVISITED_PROTOCOL",
    "About",
    "Dataset",
    "Images",
    "LoadOptions",
    "Prefixes",
    "Revisited",
    "about_dataset",
    "catalogue",
    "load_dataset",
    "read_groundtruth",
]
