"""feats.h5: written whole or not at all, read through memory maps."""

from sdc.extract.store.classes import (
    LEVELS,
    NO_LABEL,
    SPOKEN,
    Classes,
    are_numbers,
    classes_of_json,
    classes_to_json,
    number_names,
    shown_names,
    used_numbers,
)
from sdc.extract.store.file_format import Column, read_layout, verify_checksums, write_columns
from sdc.extract.store.groundtruth import Ragged, groundtruth_arrays, groundtruth_from_arrays
from sdc.extract.store.id_array import OFFSETS, EncodedIds, IdArray, PackedIds, RowNumberIds
from sdc.extract.store.listing import SPLITS, Listing, default_splits
from sdc.extract.store.store import (
    FEATURES,
    TOKENS,
    FeatureStore,
    finite_rows,
    is_feature_store,
    not_finite_error,
    view_name,
    write_features,
)

__all__ = [
    "FEATURES",
    "LEVELS",
    "NO_LABEL",
    "OFFSETS",
    "SPLITS",
    "SPOKEN",
    "TOKENS",
    "Classes",
    "Column",
    "EncodedIds",
    "FeatureStore",
    "IdArray",
    "Listing",
    "PackedIds",
    "Ragged",
    "RowNumberIds",
    "are_numbers",
    "classes_of_json",
    "classes_to_json",
    "default_splits",
    "finite_rows",
    "groundtruth_arrays",
    "groundtruth_from_arrays",
    "is_feature_store",
    "not_finite_error",
    "number_names",
    "read_layout",
    "shown_names",
    "used_numbers",
    "verify_checksums",
    "view_name",
    "write_columns",
    "write_features",
]
