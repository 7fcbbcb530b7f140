"""The features behind an index: where they are read, their exact neighbors, and rankings by their cosine."""

from sdc.retrieve.features.compact_rows import PRECISIONS, Precision, check_precision
from sdc.retrieve.features.cosine import (
    CUTOFFS,
    Cosines,
    Nearest,
    expected_overlap,
)
from sdc.retrieve.features.exact_neighbors import nearest
from sdc.retrieve.features.feature_source import (
    IndexFeatures,
    added_sources,
    encoded_features,
    missing_features,
    pushed_features,
)
from sdc.retrieve.features.protocol import Features
from sdc.retrieve.features.stored_rows import StoredRows

__all__ = [
    "CUTOFFS",
    "PRECISIONS",
    "Cosines",
    "Features",
    "IndexFeatures",
    "Nearest",
    "Precision",
    "StoredRows",
    "added_sources",
    "check_precision",
    "encoded_features",
    "expected_overlap",
    "missing_features",
    "nearest",
    "pushed_features",
]
