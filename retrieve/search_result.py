"""What `sdc.Index.search` finds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class _Neighbors(NamedTuple):
    distances: np.ndarray
    rows: np.ndarray


class SearchResult(_Neighbors):
    """The neighbors of Q queries, best first: the pair (distances, rows), and what a finer order goes by.

    Attributes:
        distances: (Q, k) int32, Hamming.
        rows: (Q, k) int64.
        similarities: (Q, k) float64, cosines of the features, where these were compared; else None.
        scores: (Q, k) float64, scores by the codes, where these gave the order; else None.
        rerank: what reranking did: the fields that `rerank` has in the JSON of `sdc search`; else None.
        in_float: how queries in float were compared: the fields of `float` there; else None.

    Example:
        >>> distances, rows = index.search(codes, k=10)
        >>> found = index.search(vectors, k=10, rerank="auto")
        >>> found.rows, found.similarities, found.rerank["recall"]
    """

    similarities: np.ndarray | None = None
    scores: np.ndarray | None = None
    rerank: dict[str, Any] | None = None
    in_float: dict[str, Any] | None = None
