"""Reranking of what a search finds: by the codes alone, or by the features of a shortlist."""

from sdc.retrieve.rerank.reranker import Reranker, check_rerank
from sdc.retrieve.rerank.scoring import WIDTH, Factor, Reranked, rerank, shortlist_size
from sdc.retrieve.rerank.shortlist import RECALL, ShortlistChoice

__all__ = [
    "RECALL",
    "WIDTH",
    "Factor",
    "Reranked",
    "Reranker",
    "ShortlistChoice",
    "check_rerank",
    "rerank",
    "shortlist_size",
]
