"""The features behind an index: where they are read, their exact neighbors, and rankings by their cosine."""

from sdc.retrieve.features.cosine import (
    CUTOFFS,
    Cosines,
    Nearest,
    expected_overlap,
    row_lengths,
    unit_rows,
)
from sdc.retrieve.features.exact_neighbors import nearest
from sdc.retrieve.features.feature_source import IndexFeatures, encoded_features, missing_features
from sdc.retrieve.features.protocol import Features

__all__ = [
    "CUTOFFS",
    "Cosines",
    "Features",
    "IndexFeatures",
    "Nearest",
    "encoded_features",
    "expected_overlap",
    "missing_features",
    "nearest",
    "row_lengths",
    "unit_rows",
]
