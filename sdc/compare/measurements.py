"""How `sdc compare` measures one contender: what its ranking keeps, and how long a query takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdc.compare.contender import Contender
from sdc.extract.store import FeatureStore
from sdc.progress import Progress
from sdc.retrieve.evaluate import average_precision_of_groups, count_groups
from sdc.retrieve.features import Nearest, expected_overlap

_PAIRS = 1 << 23  # (query, item) pairs held at once: tens of megabytes
_ROUNDS, _TURN = 10, 20  # rounds of timing, and queries that each contender gets in one, at most
SECONDS = 4.0  # that the timing of a contender should take, about


@dataclass(frozen=True)
class Contest:
    """What all contenders are measured against.

    Attributes:
        store: of the features.
        queries: (Q,) rows.
        database: (N,) rows.
        own: (Q,) the position of each query's own row in the database, which is left out of its ranking, or −1.
        near: each query's exact nearest neighbours, as many as the greatest cut-off.
        cutoffs: values of k, ascending, all at most the items a query is ranked against.
        relevant: from consecutive queries to (b, N) bools, the items that share a label; None without labels.
        at: R of mAP@R, at most the items a query is ranked against.
    """

    store: FeatureStore
    queries: np.ndarray
    database: np.ndarray
    own: np.ndarray
    near: Sequence[Nearest]
    cutoffs: Sequence[int]
    relevant: Callable[[slice], np.ndarray] | None
    at: int


@dataclass(frozen=True)
class Scores:
    """The scores of each query, expected over the orders of tied items.

    Attributes:
        recall: by k, (Q,) |top k ∩ the k nearest by cosine| / k.
        ap: (Q,) AP@R by labels, 0 where the top R has no relevant item; None without labels.
    """

    recall: Mapping[int, np.ndarray]
    ap: np.ndarray | None


def score(contender: Contender, contest: Contest, name: str) -> Scores:
    """Ranks the whole database for every query."""
    count, depth = len(contest.queries), max(*contest.cutoffs, contest.at if contest.relevant else 0) + 1
    recall = {k: np.zeros(count) for k in contest.cutoffs}
    ap = np.zeros(count) if contest.relevant else None
    size = max(1, _PAIRS // len(contest.database))
    with Progress(f"search {name}", count, "queries") as progress:
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            prepared = contender.prepare(contest.store.take(contest.queries[part]))
            groups, width = contender.groups(prepared, min(depth, len(contest.database)))
            relevant = contest.relevant(part) if contest.relevant else np.zeros(groups.shape, bool)
            counted = count_groups(groups, width, contest.own[part], relevant.view(np.uint8), 1)
            for q, one in enumerate(counted, part.start):
                for k, values in recall.items():
                    values[q] = expected_overlap(contest.near[q], one.groups, one.sizes, k)
                if ap is not None:
                    ap[q] = average_precision_of_groups(one.sizes, one.hits[0], contest.at)
            progress.advance(len(groups))
    return Scores(recall, ap)


@dataclass(frozen=True)
class Timings:
    """Milliseconds that each of n single queries took, in one thread.

    Attributes:
        encode: (n,) from the features to what is searched for.
        search: (n,) from there to its nearest items.
    """

    encode: np.ndarray
    search: np.ndarray


def time_queries(
    contenders: Sequence[Contender], features: np.ndarray, k: int, seconds: float = SECONDS
) -> list[Timings]:
    """Times single queries of all contenders in turn, so that a drift of the machine's speed touches all alike.

    A turn begins with a query that is not counted and goes over as many as the time allows.

    Args:
        features: (n, d), the queries to take from.
        k: neighbours to find.
        seconds: that the timing of a contender should take, about.
    """
    from threadpoolctl import threadpool_limits

    taken: list[list[tuple[float, float]]] = [[] for _ in contenders]
    number = 0
    with threadpool_limits(1), Progress("time queries", _ROUNDS * len(contenders), "turns") as progress:
        turns = [_turn_length(contender, features, k, seconds) for contender in contenders]
        for _ in range(_ROUNDS):
            for contender, turn, times in zip(contenders, turns, taken, strict=True):
                _time_one(contender, features[:1], k)
                for _ in range(turn):
                    times.append(_time_one(contender, features[number % len(features)][None], k))
                    number += 1
                progress.advance()
    return [Timings(*(1e3 * np.array(times).T)) for times in taken]


def _turn_length(contender: Contender, features: np.ndarray, k: int, seconds: float) -> int:
    _time_one(contender, features[:1], k)
    taken = sum(_time_one(contender, features[:1], k))
    return int(np.clip(seconds / _ROUNDS / taken, 1, _TURN))


def _time_one(contender: Contender, features: np.ndarray, k: int) -> tuple[float, float]:
    start = time.perf_counter()
    prepared = contender.prepare(features)
    middle = time.perf_counter()
    contender.search(prepared, k)
    return middle - start, time.perf_counter() - middle
