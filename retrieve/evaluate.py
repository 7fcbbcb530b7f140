"""`sdc evaluate`: how well the query split's codes retrieve the database, by labels or by neighbours.

Hamming distances tie massively, so every figure is the expected one over all orders of tied items, computed from two
histograms a query (items and relevant items at each distance); a query's own row is left out of its ranking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.artifacts import Progress, SdcError, UsageError, log, unknown
from sdc.extract.store import FeatureStore
from sdc.retrieve import curves
from sdc.retrieve.bits import hamming
from sdc.retrieve.entries import Entries
from sdc.retrieve.index import Index
from sdc.retrieve.neighbors import CUTOFFS, Cosines, Nearest, expected_overlap
from sdc.retrieve.ranking import Order, average_precision, average_precision_of_groups, check_at

__all__ = ["EvaluateSettings", "average_precision", "evaluate", "relevance"]

PROTOCOLS = ("category",)
NO_HIT = ("zero", "skip")
_PAIRS = 1 << 23  # (query, item) pairs held at once: tens of megabytes


@dataclass(frozen=True)
class EvaluateSettings:
    """What `sdc evaluate` does; the defaults are the command's.

    Attributes:
        index: a db.bin with a query split.
        at: R of mAP@R; None takes the one recorded with the features, else 1000. Clamped to the database.
        protocol: what counts as relevant; None takes the one recorded, else `category`: at least one shared label.
        no_hit: a query that no order of ties gives a relevant item in the top R counts as AP 0 (`zero`), or is
            left out of the mean APs (`skip`).
        neighbors: `float` compares with the cosine ranking of the features as well.
        features: the features the index was encoded from; None takes the recorded path.
        curves: a .csv or .json file for precision and recall over cut-offs and radii, and each query's AP.
        verify: check every byte of the files read.
    """

    index: Path = Path("db.bin")
    at: int | None = None
    protocol: str | None = None
    no_hit: str = "zero"
    neighbors: str | None = None
    features: Path | None = None
    curves: Path | None = None
    verify: bool = True


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Scores an index with its own query split.

    Returns:
        The JSON of `sdc evaluate`: protocol, at, queries, database, map, map_best, map_worst, map_all, precision
        and recall by cut-off, no_hit; with `neighbors` also neighbor_recall by cut-off and map_float, the features'
        own mAP. Without labels the protocol is `neighbors`, and neighbor_recall is the one score.

    Raises:
        SdcError: a file is missing or damaged, or no query is left to average.
        UsageError: an unknown setting, an index without a query split, curves without labels, or other features
            than the index was encoded from.
    """
    _check(settings)
    index = Index.open(settings.index, verify=settings.verify)
    queries, database = index.queries, index.database
    if queries is None:
        raise UsageError(
            f"{settings.index} has no query split to evaluate with: encode features that have one (see `sdc import`)"
        )
    own = _own(queries, database)
    ranked = len(database) - int((own >= 0).any())
    if not ranked:
        raise SdcError(f"{settings.index} holds nothing but the query itself: there is no ranking to evaluate")
    scores: dict[str, Any] = {"protocol": "neighbors", "queries": len(queries), "database": len(database)}
    at = None
    if queries.labels is not None and database.labels is not None:
        protocol, at = _protocol(settings, index, ranked)
        scores |= {"protocol": protocol, "at": at}
    elif settings.curves:
        raise UsageError(f"{settings.index} has no labels: there are no curves to write without")
    else:
        log.info("%s has no labels: the recall of the features' neighbours is evaluated instead", settings.index)
    cosines = None
    if settings.neighbors or at is None:
        cosines = Cosines(_features(settings, index), queries.rows, database.rows)
    found = _measure(queries, database, own, at, [k for k in CUTOFFS if k <= ranked], cosines)
    if at is not None:
        scores |= _by_label(settings, queries, found, at, sorted({*found.overlaps, at}))
    if cosines:
        scores["neighbor_recall"] = {str(k): float(values.mean()) for k, values in found.overlaps.items()}
        if at is not None:
            scores["map_float"] = _mean(found.float_aps, found.float_aps > 0, settings.no_hit)
    return scores


def _check(settings: EvaluateSettings) -> None:
    if settings.protocol is not None and settings.protocol not in PROTOCOLS:
        raise unknown("protocol", settings.protocol, PROTOCOLS)
    if settings.no_hit not in NO_HIT:
        raise unknown("rule for queries with no hit", settings.no_hit, NO_HIT)
    if settings.neighbors not in (None, "float"):
        raise unknown("kind of neighbors", str(settings.neighbors), ("float",))
    if settings.at is not None:
        check_at(settings.at)
    if settings.curves is not None:
        curves.check(settings.curves)


def _protocol(settings: EvaluateSettings, index: Index, ranked: int) -> tuple[str, int]:
    """The protocol's name and R: what was asked for, else what the features' provenance recommends."""
    recorded = index.metadata.get("features", {}).get("provenance", {}).get("protocol") or {}
    name = settings.protocol or recorded.get("name") or "category"
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    at = settings.at or recorded.get("at", 1000) or ranked  # a recorded R of None means all
    if at > ranked:
        log.info("R = %d is clamped to the %d items a query is ranked against", at, ranked)
    return name, min(at, ranked)


def _own(queries: Entries, database: Entries) -> np.ndarray:
    """(Q,) the place of each query's own row in the database, or -1."""
    place = np.minimum(np.searchsorted(database.rows, queries.rows), len(database) - 1)
    return np.where(database.rows[place] == queries.rows, place, -1)


def _features(settings: EvaluateSettings, index: Index) -> FeatureStore:
    path, fingerprint = index.recorded("features")
    store = FeatureStore(settings.features or path, verify=settings.verify)
    if store.fingerprint != fingerprint:
        raise UsageError(
            f"{settings.index} was encoded from features {fingerprint}, but {store.path} has {store.fingerprint}: "
            "name the right ones with --features, or encode again"
        )
    return store


@dataclass(frozen=True)
class _Found:
    """What one pass over all pairs of queries and items gathers.

    Attributes:
        sizes, hits: (Q, bits + 1) items, and relevant items, at each Hamming distance.
        overlaps: by k, each query's expected |top k by Hamming ∩ top k by cosine| / k; zeros without cosines.
        float_aps: each query's AP by cosine; likewise.
    """

    sizes: np.ndarray
    hits: np.ndarray
    overlaps: dict[int, np.ndarray]
    float_aps: np.ndarray


def _measure(
    queries: Entries, database: Entries, own: np.ndarray, at: int | None, cutoffs: list[int], cosines: Cosines | None
) -> _Found:
    count, beyond = len(queries), queries.codes.shape[1] * 8 + 1  # a query's own row is put beyond all others
    found = _Found(
        sizes=np.zeros((count, beyond), np.int64),
        hits=np.zeros((count, beyond), np.int64),
        overlaps={k: np.zeros(count) for k in cutoffs},
        float_aps=np.zeros(count),
    )
    with Progress("evaluate", count, "queries") as progress:
        for part, distances, relevant in _blocks(queries, database):
            by_cosine = cosines.distances(part) if cosines else None
            for place, q in enumerate(range(part.start, part.stop)):
                row, good = distances[place], relevant[place]
                if own[q] >= 0:
                    row[own[q]] = beyond
                both = np.bincount(2 * row + good, minlength=2 * beyond)[: 2 * beyond].reshape(beyond, 2)
                found.sizes[q], found.hits[q] = both.sum(axis=1), both[:, 1]
                if by_cosine is None:
                    continue
                if own[q] >= 0:
                    by_cosine[place, own[q]] = np.inf
                near = Nearest.of(by_cosine[place], max(at or 1, *cutoffs))
                for k, values in found.overlaps.items():
                    values[q] = expected_overlap(near, row, found.sizes[q], k)
                if at is not None:
                    hits = np.bincount(near.groups[good[near.items]], minlength=len(near.sizes))
                    found.float_aps[q] = average_precision_of_groups(near.sizes, hits, at)
            progress.advance(len(distances))
    return found


def _blocks(queries: Entries, database: Entries) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Consecutive queries with their distances (b, N) int32 and what is relevant to them (b, N) bool."""
    size = max(1, _PAIRS // len(database))
    for start in range(0, len(queries), size):
        part = slice(start, min(start + size, len(queries)))
        distances = hamming(queries.codes[part], database.codes)
        relevant = np.zeros(distances.shape, bool)
        if queries.labels is not None and database.labels is not None:
            relevant = relevance(queries.labels[part], database.labels)
        yield part, distances, relevant


def relevance(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """(Q, N) bools: the two have the same label, or with multi-hot labels (…, C) at least one in common."""
    if queries.ndim == 1:
        same: np.ndarray = queries[:, None] == database[None, :]
        return same
    shared: np.ndarray = queries.astype(np.float32) @ database.T.astype(np.float32)
    return shared > 0


def _by_label(
    settings: EvaluateSettings, queries: Entries, found: _Found, at: int, cutoffs: list[int]
) -> dict[str, Any]:
    """The figures that rest on labels; writes the curves where they are asked for."""

    def aps(limit: int, order: Order) -> np.ndarray:
        pairs = zip(found.sizes, found.hits, strict=True)
        return np.array([average_precision_of_groups(sizes, hits, limit, order) for sizes, hits in pairs])

    ap, best, worst = aps(at, "expected"), aps(at, "best"), aps(at, "worst")
    ap_all = aps(int(found.sizes.sum(axis=1).max()), "expected")
    reached = best > 0  # some order of ties has a hit
    missed = int((~reached).sum())
    if missed:
        how = "counted as AP 0" if settings.no_hit == "zero" else "left out of the mean"
        log.info("%d of %d queries have no relevant item in their top %d: %s", missed, len(ap), at, how)
    precision, recall = curves.at_cutoffs(found.sizes, found.hits, cutoffs)
    if settings.curves:
        values = {"ap": ap, "ap_best": best, "ap_worst": worst, "ap_all": ap_all}
        curves.write(settings.curves, queries, found.sizes, found.hits, values, cutoffs)
    return {
        "map": _mean(ap, reached, settings.no_hit),
        "map_best": _mean(best, reached, settings.no_hit),
        "map_worst": _mean(worst, reached, settings.no_hit),
        "map_all": _mean(ap_all, ap_all > 0, settings.no_hit),
        "precision": {str(k): float(values.mean()) for k, values in zip(cutoffs, precision.T, strict=True)},
        "recall": {str(k): float(values.mean()) for k, values in zip(cutoffs, recall.T, strict=True)},
        "no_hit": {"queries": missed, "rule": settings.no_hit},
    }


def _mean(values: np.ndarray, reached: np.ndarray, no_hit: str) -> float:
    kept = values[reached] if no_hit == "skip" else values
    if not len(kept):
        raise SdcError("no query has a relevant item in its ranking, and such queries are skipped: nothing is left")
    return float(kept.mean())
