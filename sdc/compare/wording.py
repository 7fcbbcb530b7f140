"""How `sdc compare` names methods and figures in its advice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from sdc.compare.contender import ASYMMETRIC, RERANKED, TABLES
from sdc.compare.results import Result, near_cutoff

NAMES = {
    "sdc": "SDC",
    "neighbors": "`--goal neighbors`",
    "itq": "ITQ",
    "random-rotation": "random rotation",
    "pq": "PQ",
    "rq": "RQ",
    "lsq": "LSQ",
    "rabitq": "RaBitQ",
    "rabitq2": "RaBitQ of 2 bits",
    "rabitq3": "RaBitQ of 3 bits",
    "rabitq4": "RaBitQ of 4 bits",
    "sign-full": "sign of all dimensions",
    "hnsw": "HNSW",
    "ivfpq": "IVF-PQ with its vectors",
}

Score = Literal["recall", "map"]


def value_of(result: Result, score: Score) -> float:
    """Its mAP, or its recall at the k by which methods are compared."""
    mean = result.map if score == "map" else result.recall[near_cutoff(list(result.recall))]
    assert mean is not None
    return mean.value


def cost_of(one: Result, lead: Result) -> str:
    """How much longer it takes than SDC, such as "2.1 × the time of a query and 3 × the time to build"."""
    costs = {}
    if one.latency and lead.latency:
        costs["of a query"] = one.latency.total[0] / lead.latency.total[0]
    if one.build and lead.build:
        costs["to build"] = one.build / lead.build
    return " and ".join(f"{ratio:.2g} × the time {what}" for what, ratio in costs.items() if not 0.8 < ratio < 1.25)


def nearest_of(k: int) -> str:
    """What a recall is of."""
    return f"the {k} nearest neighbours" if k > 1 else "the nearest neighbours"


def name_of(result: Result) -> str:
    """A method's name in a sentence."""
    endings = ((ASYMMETRIC, "with the query in float"), (TABLES, "read by byte tables"), (RERANKED, "re-ranked"))
    for ending, words in endings:
        if result.method.endswith(ending):
            base = result.method.removesuffix(ending)
            return f"{NAMES.get(base, base)} {words}"
    return NAMES.get(result.method, result.method)


def are(results: Sequence[Result]) -> str:
    """The verb for so many."""
    return "is" if len(results) == 1 else "are"


def values_of(results: Sequence[Result]) -> str:
    """Their mAPs."""
    return listed([f"{value_of(result, 'map'):.3f}" for result in results])


def with_values(results: Sequence[Result], score: Score) -> str:
    """Their names, each with its score."""
    return listed([f"{name_of(result)} {value_of(result, score):.3f}" for result in results])


def listed(names: Iterable[str]) -> str:
    """Names as a text: A, B and C."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
