"""Other engines that codes are pushed to and searched in: Milvus, and PostgreSQL with pgvector."""

from sdc.retrieve.engines.base import Engine, Hits, PushBatch, Record
from sdc.retrieve.engines.push import PushSettings
from sdc.retrieve.engines.push import run as push_index
from sdc.retrieve.engines.registry import ENGINES, connect, index_types, is_url, parse, url_forms
from sdc.retrieve.engines.search import search as search_engine
from sdc.retrieve.engines.urls import Target

__all__ = [
    "ENGINES",
    "Engine",
    "Hits",
    "PushBatch",
    "PushSettings",
    "Record",
    "Target",
    "connect",
    "index_types",
    "is_url",
    "parse",
    "push_index",
    "search_engine",
    "url_forms",
]
