"""Flat or IVF, and how many lists to scan: measured on the codes at hand, before they are written.

The recall of IVF needs no search by it: an exact neighbour is found as soon as its list is scanned, so the rank of that
list among the query's nearest ones gives recall for every number of lists at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sdc.errors import UsageError, log, unknown_name_error
from sdc.progress import Progress
from sdc.retrieve.bits import hamming
from sdc.retrieve.cross_validation import choose_and_validate, query_part
from sdc.retrieve.index import ivf
from sdc.retrieve.index.flat import FlatSearcher
from sdc.retrieve.index.ivf import IVFSearcher
from sdc.retrieve.index.records import Records, own_positions

INDEX_TYPES = ("auto", "flat", "ivf")
RECALL = 0.95  # asked for by default
NEIGHBORS = 10  # recall is that of so many
SMALL = 100_000  # words (8 bytes of a code): comparing fewer takes 0.1 to 0.2 ms
GAIN = 1.25  # how much faster IVF must be to be chosen: it is approximate
MOST_SCANNED = 0.5  # of the codes, beyond which IVF is not worth a timing
_TRIAL = 200_000  # codes for a first look at a larger database
_QUERIES, _ENOUGH = 1000, 20  # measured on at most, and from the query split at least
_TIMED = 50  # queries, one at a time
_AT_ONCE = 16  # queries whose neighbours are listed together


@dataclass(frozen=True)
class IndexChoice:
    """What kind of index was chosen, and what to expect of it.

    Attributes:
        index_type: flat or ivf.
        why: a clause.
        memory: bytes that searching it touches.
        recall: expected recall@10 against exact search, an item as near as the tenth counting as found; measured on
            queries that had no part in choosing, see `sdc.retrieve.cross_validation`. 1 where it is flat.
        asked: the recall that was to be reached.
        milliseconds: expected of one query, or None where nothing was timed, and
        flat_milliseconds: those of exact search then.
        lists, nprobe: of an IVF index: how many lists it has, and how many are scanned.
        queries: how many the expectations come from.
        measured_on: where they are from: "query split" or "database rows".
    """

    index_type: str
    why: str
    memory: int
    recall: float = 1.0
    asked: float | None = None
    milliseconds: float | None = None
    flat_milliseconds: float | None = None
    lists: int | None = None
    nprobe: int | None = None
    queries: int | None = None
    measured_on: str | None = None

    def described(self) -> dict[str, Any]:
        """What is known, for db.bin's metadata."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        if self.index_type == "ivf":
            scanned = f"{self.nprobe} of {self.lists} lists scanned, recall@{NEIGHBORS} {self.recall:.3f}"
        else:
            scanned = "exact"
        if self.milliseconds is not None:
            scanned += f", {self.milliseconds:.3g} ms a query; measured with {self.queries} queries, {self.measured_on}"
        return f"index type {self.index_type} ({scanned}): {self.why}"


@dataclass(frozen=True)
class QuerySample:
    """Queries to measure with: codes (Q, bits // 8), and (Q,) the place of each in the database, or −1."""

    codes: np.ndarray
    own: np.ndarray
    origin: str

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, database: Records, queries: Records | None, chance: np.random.Generator) -> QuerySample:
        """Some of the query split, or, where that has too few, rows of the database, in random order."""
        if queries is not None and 0 < len(queries) < _ENOUGH:
            log.info(
                "the query split has %d queries, too few to measure with: rows of the database stand in", len(queries)
            )
        part, of_split = query_part(database, queries, _ENOUGH)
        chosen = chance.permutation(len(part))[:_QUERIES]
        own = own_positions(part.rows, database.rows)[chosen] if of_split else chosen
        return cls(part.codes[chosen], own, "query split" if of_split else "database rows")


def check(index_type: str, recall: float, memory: int | None) -> None:
    """Raises UsageError where the type is unknown, or recall or memory out of range."""
    if index_type not in INDEX_TYPES:
        raise unknown_name_error("index type", index_type, INDEX_TYPES)
    if not 0 < recall <= 1 or (recall == 1 and index_type != "flat"):
        raise UsageError(f"--recall must be above 0 and below 1, found {recall:g}: --index-type flat is exact")
    if memory is not None and memory < 1:
        raise UsageError(f"--memory must be at least 1 byte, found {memory}")


def check_fits(count: int, width: int, index_type: str, memory: int | None) -> None:
    """Raises UsageError where `count` codes of `width` bytes do not fit into the memory."""
    kind = "ivf" if index_type == "ivf" else "flat"
    flat = count * width
    least = ivf.footprint(count, width, ivf.list_count(count)) if kind == "ivf" else flat
    if memory is not None and least > memory:
        smaller = f"; as flat they take {flat}" if kind == "ivf" else ""
        raise UsageError(
            f"{count} codes of {width * 8} bits take {least} bytes as {kind}, --memory allows {memory}{smaller}"
        )


def choose(
    database: Records,
    queries: Records | None,
    index_type: str,
    *,
    recall: float = RECALL,
    memory: int | None = None,
    seed: int = 0,
) -> tuple[IndexChoice, Any]:
    """Decides on the index of a database.

    Args:
        queries: its query split, if any, to choose `nprobe` on and to say what to expect.
        index_type: one of INDEX_TYPES.
        recall: recall@10 against exact search that IVF is to reach.
        memory: bytes that the codes and lists may take.

    Returns:
        The choice, and FAISS' IVF index where one was chosen, else None.

    Raises:
        UsageError: recall or memory out of range, or the codes do not fit into the memory.
    """
    check(index_type, recall, memory)
    count, width = database.codes.shape
    check_fits(count, width, index_type, memory)
    lists = ivf.list_count(count)
    flat, inverted = count * width, ivf.footprint(count, width, lists)
    if index_type == "flat":
        return IndexChoice("flat", "as asked", flat), None
    if count <= NEIGHBORS:
        return IndexChoice("flat", f"{count} codes are too few for lists", flat), None
    if index_type == "auto":
        if count * -(-width // 8) < SMALL:
            return IndexChoice(
                "flat", f"{count} codes of {8 * width} bits are compared in a fraction of a millisecond", flat
            ), None
        if memory is not None and inverted > memory:
            why = f"IVF would take {inverted} bytes, --memory allows {memory}"
            return IndexChoice("flat", why, flat), None
    return _measured(database, queries, index_type, lists, recall, np.random.default_rng(seed))


def _measured(
    database: Records,
    queries: Records | None,
    index_type: str,
    lists: int,
    recall: float,
    chance: np.random.Generator,
) -> tuple[IndexChoice, Any]:
    codes, seed = database.codes, int(chance.integers(2**31))
    count, width = codes.shape
    flat = count * width
    if index_type == "auto" and count > 2 * _TRIAL:
        chosen = np.sort(chance.choice(count, _TRIAL, replace=False))
        some = Records(codes[chosen], database.rows[chosen])
        scanned = _look(some, QuerySample.of(some, None, chance), ivf.list_count(_TRIAL), recall, seed).scanned
        if scanned > MOST_SCANNED:
            return IndexChoice(
                "flat", _hopeless(recall, scanned, f"in a sample of {_TRIAL} codes "), flat, asked=recall
            ), None
    found = QuerySample.of(database, queries, chance)
    look = _look(database, found, lists, recall, seed)
    if index_type == "auto" and look.scanned > MOST_SCANNED:
        return IndexChoice("flat", _hopeless(recall, look.scanned), flat, asked=recall), None
    index = ivf.build(codes, look.centroids, look.assigned)
    exact, approximate = timed(
        [FlatSearcher(codes).search, IVFSearcher(index, codes, look.nprobe).search], found.codes[:_TIMED]
    )
    measured: Mapping[str, Any] = {
        "asked": recall, "flat_milliseconds": exact, "queries": len(found), "measured_on": found.origin,
    }  # fmt: skip
    if index_type == "auto" and not pays(exact, approximate):
        why = f"IVF takes {approximate:.3g} ms for recall {look.recall:.3f}, exact search {exact:.3g} ms"
        return IndexChoice("flat", why, flat, milliseconds=exact, **measured), None
    why = f"exact search takes {exact:.3g} ms" if index_type == "auto" else "as asked"
    return (
        IndexChoice(
            "ivf", why, ivf.footprint(count, width, lists), look.recall,
            milliseconds=approximate, lists=lists, nprobe=look.nprobe, **measured,
        ),
        index,
    )  # fmt: skip


def pays(exact: float, approximate: float) -> bool:
    """Whether IVF is worth being approximate, by the milliseconds of a query."""
    return approximate * GAIN <= exact


def _hopeless(recall: float, scanned: float, where: str = "") -> str:
    return f"for recall {recall:g} IVF would have to scan {scanned:.0%} of the codes {where}".rstrip()


@dataclass(frozen=True)
class _Look:
    """Lists of a database, how many must be scanned, the share of codes in them, and recall on other queries."""

    centroids: np.ndarray
    assigned: np.ndarray
    nprobe: int
    scanned: float
    recall: float


def _look(database: Records, queries: QuerySample, lists: int, recall: float, seed: int) -> _Look:
    centroids = ivf.train(database.codes, lists, seed=seed)
    assigned = ivf.assign(database.codes, centroids)
    ranks, order = list_ranks(database.codes, queries, centroids, assigned)
    nprobe, recalls = choose_and_validate(
        len(queries),
        lambda some: least_nprobe(ranks[some], recall),
        lambda fewest, others: (ranks[others] < fewest).mean(axis=1),
    )
    sizes = np.bincount(assigned, minlength=lists)
    scanned = sizes[order[:, :nprobe]].sum(axis=1).mean() / len(assigned)
    return _Look(centroids, assigned, nprobe, scanned, float(recalls.mean()))


def list_ranks(
    codes: np.ndarray, queries: QuerySample, centroids: np.ndarray, assigned: np.ndarray, k: int = NEIGHBORS
) -> tuple[np.ndarray, np.ndarray]:
    """After how many lists each of a query's exact neighbours is found.

    Args:
        codes: (N, bits // 8) uint8.
        assigned: (N,) their lists.

    Returns:
        ranks (Q, k), ascending, from 0, of the lists of the k neighbours that are found first among all that are no
        farther than the k-th; and order (Q, lists), each query's lists, nearest first. k is at most the number of codes
        beside a query's own.
    """
    has_own = queries.own >= 0
    k = min(k, len(codes) - int(has_own.any()))
    searcher = FlatSearcher(codes)
    ranks, order = np.empty((len(queries), k), np.int64), np.empty((len(queries), len(centroids)), np.int32)
    with Progress("measure recall", len(queries), "queries") as progress:
        for start in range(0, len(queries), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            some = np.ascontiguousarray(queries.codes[part])
            # A query's own row is at distance 0, before or among its neighbours.
            nearest = searcher.search(some, min(k + 1, len(codes)))[0]
            farthest = np.where(has_own[part], nearest[:, -1], nearest[:, k - 1])
            order[part] = np.argsort(hamming(some, centroids), axis=1, kind="stable")
            for q, one in enumerate(range(start, start + len(some))):
                _, _, positions = searcher.range_search(some[q : q + 1], int(farthest[q]))
                place = np.empty(len(centroids), np.int64)
                place[order[one]] = np.arange(len(centroids))
                near = place[assigned[positions[positions != queries.own[one]]]]
                ranks[one] = np.sort(np.partition(near, k - 1)[:k])
            progress.advance(len(some))
    return ranks, order


def recall_at(ranks: np.ndarray, nprobe: int) -> float:
    """Recall of scanning `nprobe` lists, `ranks` being those of `list_ranks`."""
    return float((ranks < nprobe).mean())


def least_nprobe(ranks: np.ndarray, recall: float) -> int:
    """The least number of lists that reaches a recall by one standard error of its mean over queries.

    Without that margin about half of all promises would be broken by a little. The error is that of the number which
    just reaches the recall: of more lists it is smaller, in a small sample down to 0.
    """
    error = (ranks < _reaching(ranks, recall)).mean(axis=1).std() / math.sqrt(len(ranks))
    return _reaching(ranks, min(recall + error, 1.0))


def _reaching(ranks: np.ndarray, recall: float) -> int:
    return int(np.quantile(ranks, recall, method="inverted_cdf")) + 1


def timed(searches: list[Callable[[np.ndarray, int], Any]], codes: np.ndarray) -> list[float]:
    """The median milliseconds of one query by each of several searches, which take turns."""
    spent = np.empty((len(codes), len(searches)))
    for q in range(-2, len(codes)):  # the first two warm up
        for n, search in enumerate(searches):
            started = time.perf_counter()
            search(codes[abs(q) % len(codes)][None], NEIGHBORS)
            if q >= 0:
                spent[q, n] = (time.perf_counter() - started) * 1e3
    return [float(median) for median in np.median(spent, axis=0)]


def recall_of(
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    queries: Records,
    own: np.ndarray,
    sizes: np.ndarray,
    k: int,
) -> float:
    """What an index finds of the k exact neighbours of its query split; one as near as the k-th counts as found.

    Args:
        search: `Index.search`.
        own: (Q,) ≥ 0 where the database holds a query's own row, which is left out.
        sizes: (Q, bits + 1) codes at each distance, without it.
    """
    farthest = (np.cumsum(sizes, axis=1) >= k).argmax(axis=1)
    distances, rows = search(queries.codes, k + int((own >= 0).any()))
    theirs = (own >= 0)[:, None] & (rows == queries.rows[:, None])
    found = ((distances <= farthest[:, None]) & ~theirs).sum(axis=1)
    return float(np.minimum(found, k).mean() / k)
