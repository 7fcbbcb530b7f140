"""Reranking of what a search finds: by the codes alone, or by the features of a shortlist."""

from sdc.retrieve.rerank.choices import ShortlistChoice
from sdc.retrieve.rerank.float_search import float_search
from sdc.retrieve.rerank.float_searcher import FloatSearcher
from sdc.retrieve.rerank.readings import READINGS, Reading, choose_reading
from sdc.retrieve.rerank.reranker import (
    Reranker,
    check_rerank,
    facts_of,
    features_and_outputs,
    log_missing,
    open_features,
    own_features,
)
from sdc.retrieve.rerank.scoring import QUERIES, WIDTH, Factor, Ranking, Reranked, batches, rerank, shortlist_size
from sdc.retrieve.rerank.shortlist import RECALL
from sdc.retrieve.rerank.shortlist import choose as choose_shortlist

__all__ = [
    "QUERIES",
    "READINGS",
    "RECALL",
    "WIDTH",
    "Factor",
    "FloatSearcher",
    "Ranking",
    "Reading",
    "Reranked",
    "Reranker",
    "ShortlistChoice",
    "batches",
    "check_rerank",
    "choose_reading",
    "choose_shortlist",
    "facts_of",
    "features_and_outputs",
    "float_search",
    "log_missing",
    "open_features",
    "own_features",
    "rerank",
    "shortlist_size",
]
