"""What a verdict is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Warned(NamedTuple):
    """Something that the user should know: a name for programs, and a sentence on what was found and what to do."""

    warning: str
    message: str


@dataclass(frozen=True)
class Recall:
    """What a sample of queries finds of its exact nearest neighbors by cosine.

    Attributes:
        k: neighbors.
        codes: the recall by Hamming distance alone, expected over ties.
        reranked: that of a search with --rerank, of queries that had no part in choosing
        shortlist: how many items' features each query compares then, and
        candidates: how many the codes find.
        queries, items: of the sample.
    """

    k: int
    codes: float
    reranked: float
    shortlist: int
    candidates: int
    queries: int
    items: int


@dataclass(frozen=True)
class Figures:
    """What a verdict is made of.

    Attributes:
        count, bits: of the index.
        method, tables: of its model: the method's name, and whether it has byte tables; None where it is not at hand.
        bytes: of a vector in the index: its code, and its length byte where the model has byte tables.
        dimension, feature_bytes: of a vector's features as they are stored; None where these are not at hand.
        recall: None where features or model are not at hand, or there are no two items.
        milliseconds: median of one query alone, by `codes` and, with a recall, `reranked`.
        missing: why there is no recall.
        warned: what the user should know.
    """

    count: int
    bits: int
    method: str | None
    tables: bool | None
    bytes: int
    dimension: int | None
    feature_bytes: int | None
    recall: Recall | None
    milliseconds: dict[str, float]
    missing: str | None = None
    warned: list[Warned] = field(default_factory=list)
