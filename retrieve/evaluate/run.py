"""`sdc evaluate`: how well the query split's codes retrieve the database, by labels, ground truth or neighbours.

Hamming distances tie massively, so every figure is the expected one over all orders of tied items, computed from two
histograms a query (items and relevant items at each distance); the revisited protocol has that beside the order by
(distance, row), which is its custom. A query's own row is left out of its ranking. Where labels have two levels both
are evaluated, and where the model was trained with `--imbalance` its head, middle and tail classes are reported apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.retrieve.evaluate import precision_recall, protocols
from sdc.retrieve.evaluate.distance_counts import ByCosine, Tally, tally
from sdc.retrieve.evaluate.landmark_metrics import revisited, revisited_scores
from sdc.retrieve.evaluate.protocols import NEIGHBORS, RELEVANT, REVISITED, Protocol
from sdc.retrieve.evaluate.ranking_metrics import (
    Denominator,
    Order,
    average_precision,
    average_precision_of_groups,
    check_at,
)
from sdc.retrieve.evaluate.relevance import COARSE, FINE, relevance
from sdc.retrieve.features.cosine import CUTOFFS, Cosines
from sdc.retrieve.features.feature_source import encoded_features
from sdc.retrieve.index import Index, Records, own_positions, recall_of

__all__ = ["EvaluateSettings", "average_precision", "evaluate", "relevance", "revisited"]


@dataclass(frozen=True)
class EvaluateSettings:
    """What `sdc evaluate` does; the defaults are the command's.

    Attributes:
        index: a db.bin with a query split.
        at: R of mAP@R; None takes the one recorded with the features, else 1000. Clamped to the database.
        protocol: what counts as relevant: `category`: at least one shared label; `relevant` or `revisited`: what the
            ground truth lists. None takes the one recorded, else `category`.
        denominator: of AP@R: the relevant items `found` in the top R, `all` there are, or these `capped` at R; None
            takes `found` for `category` and `all` for `relevant`.
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
    denominator: Denominator | None = None
    no_hit: str = "zero"
    neighbors: str | None = None
    features: Path | None = None
    curves: Path | None = None
    verify: bool = True


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Scores an index with its own query split.

    Returns:
        The JSON of `sdc evaluate`: protocol, at, queries, database, map, map_best, map_worst, map_all, precision
        and recall by cut-off, no_hit, conventions; with `neighbors` also neighbor_recall by cut-off and map_float, the
        features' own mAP. Without labels and ground truth the protocol is `neighbors`, and neighbor_recall is the one
        score. With coarse labels also `coarse`, the same figures at that level, and `fall`, its map less the fine one.
        Where the model recorded groups of classes also `groups`: of head, middle and tail each map, the queries it is
        the mean of, and classes. With the protocol `relevant` also `denominators`: map with either of its two. Of an
        index of type ivf, all that is of exact rankings, and `ivf_recall` by cut-off is the share of the exact nearest
        codes that its search finds, one as near as the last of them counting as found.

        With the protocol `revisited` instead: easy, medium and hard, each with map and mp by cut-off, of the order by
        (distance, row), both again with _expected, _best and _worst, and the queries they are the mean of. A setting
        in which no query has positives is left out.

    Raises:
        SdcError: a file is missing or damaged, or no query is left to average.
        UsageError: an unknown setting, an index without a query split or without what the protocol needs, curves
            where there are none, or other features than the index was encoded from.
    """
    _check(settings)
    index = Index.open(settings.index, verify=settings.verify)
    queries, database = index.queries, index.database
    if queries is None:
        raise UsageError(
            f"{settings.index} has no query split to evaluate with: encode features that have one (see `sdc import`)"
        )
    own = own_positions(queries.rows, database.rows)
    ranked = len(database) - int((own >= 0).any())
    if not ranked:
        raise SdcError(f"{settings.index} holds nothing but the query itself: there is no ranking to evaluate")
    protocol = protocols.choose(index, settings.index, ranked, settings.protocol, settings.at, settings.denominator)
    _check_curves(settings, protocol)
    by_cosine = None
    if settings.neighbors or protocol.name == NEIGHBORS:
        store = encoded_features(index, settings.features, verify=settings.verify)
        cosines = Cosines(store, queries.rows, database.rows)
        by_cosine = ByCosine(cosines, protocol.at, protocol.score)
    cutoffs = [k for k in CUTOFFS if k <= ranked]
    in_rows = protocol.name == REVISITED
    found = tally(queries, database, own, protocol.marks, cutoffs, by_cosine, in_rows=in_rows)
    scores: dict[str, Any] = {"protocol": protocol.name}
    if protocol.name != NEIGHBORS:
        scores["at"] = protocol.at
    scores |= {"queries": len(queries), "database": len(database)}
    if protocol.name == REVISITED:
        by_setting = revisited_scores(found.sizes, found.hits, found.by_row, found.float_aps)
        if not by_setting:
            raise SdcError(f"no query of {settings.index} has easy or hard items: there is nothing to evaluate")
        scores |= by_setting
    elif protocol.name != NEIGHBORS:
        scores |= _by_relevance(settings, index, queries, found, protocol)
    if by_cosine:
        scores["neighbor_recall"] = {str(k): float(values.mean()) for k, values in found.overlaps.items()}
    if index.approximate:
        # One search each: with a larger k a query may find too few in its lists, and would be compared with all codes.
        shares = [recall_of(index.search, queries, own, found.sizes, k) for k in cutoffs]
        scores["ivf_recall"] = dict(zip(map(str, cutoffs), shares, strict=True))
    if protocol.name != NEIGHBORS:
        scores["conventions"] = protocol.conventions(settings.no_hit)
    return scores


def _check(settings: EvaluateSettings) -> None:
    protocols.check(settings.protocol, settings.denominator, settings.no_hit)
    if settings.neighbors not in (None, "float"):
        raise unknown_name_error("kind of neighbors", str(settings.neighbors), ("float",))
    if settings.at is not None:
        check_at(settings.at)
    if settings.curves is not None:
        precision_recall.check(settings.curves)


def _check_curves(settings: EvaluateSettings, protocol: Protocol) -> None:
    """Refuses curves where there are none; says so where the neighbours are evaluated instead of labels."""
    if settings.curves and protocol.name == REVISITED:
        raise UsageError("the protocol revisited has three settings, and no curves: leave out --curves")
    if settings.curves and protocol.name == NEIGHBORS:
        raise UsageError(f"{settings.index} has no labels: there are no curves to write without")
    if protocol.name == NEIGHBORS:
        log.info("%s has no labels: the recall of the features' neighbours is evaluated instead", settings.index)


def _by_relevance(
    settings: EvaluateSettings, index: Index, queries: Records, found: Tally, protocol: Protocol
) -> dict[str, Any]:
    """All figures of rankings in which items are relevant or not; writes the curves where they are asked for.

    Of two levels of labels the finer one comes first.
    """
    first = protocol.marks.names[0]
    cutoffs = sorted({*found.overlaps, protocol.at})
    aps = _average_precisions(found, first, protocol.at, protocol.denominator)
    scores = _at_level(settings, found, first, aps, protocol.at, cutoffs)
    if COARSE in found.hits:
        upper = _average_precisions(found, COARSE, protocol.at, protocol.denominator)
        coarse = _at_level(settings, found, COARSE, upper, protocol.at, cutoffs)
        scores |= {"coarse": coarse, "fall": coarse["map"] - scores["map"]}
    if protocol.name == RELEVANT:
        scores["denominators"] = _by_denominator(settings, found, protocol.at)
    groups = index.metadata.get("model", {}).get("groups")
    if groups and first == FINE:
        scores["groups"] = _by_group(settings, groups, queries, aps)
    if settings.curves:
        precision_recall.write(settings.curves, queries, found.sizes, found.hits[first], aps, cutoffs)
    return scores


def _by_denominator(settings: EvaluateSettings, found: Tally, at: int) -> dict[str, float]:
    """mAP with the two denominators that are in use for Google Landmarks v2."""
    both: tuple[Denominator, ...] = ("all", "capped")
    aps = {str(one): _average_precisions(found, "relevant", at, one) for one in both}
    return {name: _mean(each["ap"], each["ap_best"] > 0, settings.no_hit) for name, each in aps.items()}


def _average_precisions(found: Tally, mark: str, at: int, denominator: Denominator) -> dict[str, np.ndarray]:
    """Each query's AP@R by one mark, by its name in the curves' file."""

    def aps(limit: int, order: Order) -> np.ndarray:
        pairs = zip(found.sizes, found.hits[mark], strict=True)
        return np.array([average_precision_of_groups(sizes, hits, limit, order, denominator) for sizes, hits in pairs])

    return {
        "ap": aps(at, "expected"),
        "ap_best": aps(at, "best"),
        "ap_worst": aps(at, "worst"),
        "ap_all": aps(int(found.sizes.sum(axis=1).max()), "expected"),
    }


def _at_level(
    settings: EvaluateSettings, found: Tally, level: str, aps: dict[str, np.ndarray], at: int, cutoffs: list[int]
) -> dict[str, Any]:
    """The figures of one level of labels, or of the ground truth."""
    reached = aps["ap_best"] > 0  # some order of ties has a hit
    missed = int((~reached).sum())
    if missed:
        log.info(
            "%d of %d queries have no relevant item in their top %d%s: %s",
            missed, len(reached), at, " by coarse labels" if level == COARSE else "",
            "counted as AP 0" if settings.no_hit == "zero" else "left out of the mean",
        )  # fmt: skip
    precision, recall = precision_recall.at_cutoffs(found.sizes, found.hits[level], cutoffs)
    scores = {
        "map": _mean(aps["ap"], reached, settings.no_hit),
        "map_best": _mean(aps["ap_best"], reached, settings.no_hit),
        "map_worst": _mean(aps["ap_worst"], reached, settings.no_hit),
        "map_all": _mean(aps["ap_all"], aps["ap_all"] > 0, settings.no_hit),
        "precision": {str(k): float(values.mean()) for k, values in zip(cutoffs, precision.T, strict=True)},
        "recall": {str(k): float(values.mean()) for k, values in zip(cutoffs, recall.T, strict=True)},
        "no_hit": {"queries": missed, "rule": settings.no_hit},
    }
    if settings.neighbors:
        by_cosine = np.array([one[level] for one in found.float_aps])
        scores["map_float"] = _mean(by_cosine, by_cosine > 0, settings.no_hit)
    return scores


def _by_group(
    settings: EvaluateSettings, groups: dict[str, list[int]], queries: Records, aps: dict[str, np.ndarray]
) -> dict[str, Any]:
    """mAP of the queries whose class is in each group; a group without any is left out.

    Where every class is in a group, the maps weighted by their `queries` give that of all.
    """
    counted = (aps["ap_best"] > 0) | (settings.no_hit == "zero")
    found = {}
    for name, classes in groups.items():
        chosen = aps["ap"][counted & np.isin(np.asarray(queries.labels), classes)]
        if len(chosen):
            found[name] = {"map": float(chosen.mean()), "queries": len(chosen), "classes": len(classes)}
    return found


def _mean(values: np.ndarray, reached: np.ndarray, no_hit: str) -> float:
    kept = values[reached] if no_hit == "skip" else values
    if not len(kept):
        raise SdcError("no query has a relevant item in its ranking, and such queries are skipped: nothing is left")
    return float(kept.mean())
