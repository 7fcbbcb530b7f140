"""Types of index, one a file, found by name; which of them an index gets."""

from sdc.retrieve.index.index_types.autotune import RECALL, check_fits, check_index_type, choose
from sdc.retrieve.index.index_types.base import BuildRequest, Built, IndexChoice, IndexType
from sdc.retrieve.index.index_types.measure import recall_of
from sdc.retrieve.index.index_types.registry import (
    INDEX_TYPES,
    index_type_help,
    index_type_names,
    load_index_type,
    load_index_types,
    search_option_help,
)
from sdc.retrieve.index.index_types.searcher import Searcher, StoredSearcher

__all__ = [
    "INDEX_TYPES",
    "RECALL",
    "BuildRequest",
    "Built",
    "IndexChoice",
    "IndexType",
    "Searcher",
    "StoredSearcher",
    "check_fits",
    "check_index_type",
    "choose",
    "index_type_help",
    "index_type_names",
    "load_index_type",
    "load_index_types",
    "recall_of",
    "search_option_help",
]
