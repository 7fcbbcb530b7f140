"""What db.bin is, and how its codes are searched."""

from sdc.retrieve.index.autotune import INDEX_TYPES, RECALL, recall_of
from sdc.retrieve.index.delta.folder import itself
from sdc.retrieve.index.delta.manifest import Source
from sdc.retrieve.index.flat import FlatSearcher, nearest
from sdc.retrieve.index.id_hash import IdLookup
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records, own_positions
from sdc.retrieve.index.threads import faiss_module

__all__ = [
    "INDEX_TYPES",
    "RECALL",
    "FlatSearcher",
    "IdLookup",
    "Ids",
    "Index",
    "Records",
    "Source",
    "faiss_module",
    "itself",
    "nearest",
    "own_positions",
    "recall_of",
]
