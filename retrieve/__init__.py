"""Indexes of codes: encoding, searching, evaluating, changing and diagnosing them."""

from sdc.retrieve.answer import (
    Neighbors,
    answer_schema,
    build_answer,
    equal_neighbors,
    label_columns,
    ragged_neighbors,
    text_column,
)
from sdc.retrieve.bits import check_bits, hamming, pack, unpack
from sdc.retrieve.encode import EncodeSettings, code_lengths, encode_rows
from sdc.retrieve.encode import run as encode_database
from sdc.retrieve.filters import matching_rows
from sdc.retrieve.foreign_codes import import_codes
from sdc.retrieve.index_with_features import Index
from sdc.retrieve.origin import is_refined
from sdc.retrieve.queries import Queries, QueryEncoder, encode_queries, load_index_model
from sdc.retrieve.search import search as search_index
from sdc.retrieve.search_result import SearchResult
from sdc.retrieve.search_settings import SearchSettings

__all__ = [
    "EncodeSettings",
    "Index",
    "Neighbors",
    "Queries",
    "QueryEncoder",
    "SearchResult",
    "SearchSettings",
    "answer_schema",
    "build_answer",
    "check_bits",
    "code_lengths",
    "encode_database",
    "encode_queries",
    "encode_rows",
    "equal_neighbors",
    "hamming",
    "import_codes",
    "is_refined",
    "label_columns",
    "load_index_model",
    "matching_rows",
    "pack",
    "ragged_neighbors",
    "search_index",
    "text_column",
    "unpack",
]
