"""What db.bin is, and how its codes are searched."""

from sdc.retrieve.index.build import write_new_index
from sdc.retrieve.index.delta import Source
from sdc.retrieve.index.encoded_index import EncodedIndex
from sdc.retrieve.index.flat_search import FlatSearcher, nearest
from sdc.retrieve.index.id_hash import IdLookup
from sdc.retrieve.index.ids import Ids, decode_id, encode_id
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.index_types import (
    INDEX_TYPES,
    RECALL,
    BuildRequest,
    Built,
    IndexChoice,
    IndexType,
    Searcher,
    StoredSearcher,
    check_fits,
    check_index_type,
    index_type_help,
    index_type_names,
    load_index_type,
    load_index_types,
    recall_of,
    search_option_help,
)
from sdc.retrieve.index.records import Records
from sdc.retrieve.index.searchable import Searchable, inside_positions
from sdc.retrieve.index.sorted_rows import among, look_up, own_positions
from sdc.retrieve.index.threads import faiss_module, run_parallel

__all__ = [
    "INDEX_TYPES",
    "RECALL",
    "BuildRequest",
    "Built",
    "EncodedIndex",
    "FlatSearcher",
    "IdLookup",
    "Ids",
    "Index",
    "IndexChoice",
    "IndexType",
    "Records",
    "Searchable",
    "Searcher",
    "Source",
    "StoredSearcher",
    "among",
    "check_fits",
    "check_index_type",
    "decode_id",
    "encode_id",
    "faiss_module",
    "index_type_help",
    "index_type_names",
    "inside_positions",
    "load_index_type",
    "load_index_types",
    "look_up",
    "nearest",
    "own_positions",
    "recall_of",
    "run_parallel",
    "search_option_help",
    "write_new_index",
]
