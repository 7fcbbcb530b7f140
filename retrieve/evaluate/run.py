"""`sdc evaluate`: how well the query split's codes retrieve the database, by labels, ground truth or neighbors.

Hamming distances tie massively, so every figure is the expected one over all orders of tied items, computed from two
histograms a query (items and relevant items at each distance); the revisited protocol has that beside the order by
(distance, row), which is its custom. A query's own row is left out of its ranking. Where labels have two levels both
are evaluated, and where the model was trained with `--imbalance` its head, middle and tail classes are reported apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.retrieve.evaluate import metrics, precision_recall, protocols
from sdc.retrieve.evaluate.distance_counts import ByCosine, DistanceCounts, Ranking, count_distances
from sdc.retrieve.evaluate.landmark_metrics import revisited_scores
from sdc.retrieve.evaluate.metrics import METRICS, Rankings
from sdc.retrieve.evaluate.protocols import CATEGORY, NEIGHBORS, RELEVANT, REVISITED, Protocol
from sdc.retrieve.evaluate.ranking_metrics import Denominator, check_at
from sdc.retrieve.evaluate.rankings import ByDistance, ByTables
from sdc.retrieve.evaluate.relevance import COARSE, FINE, unlabelled
from sdc.retrieve.features import CUTOFFS, Cosines, encoded_features
from sdc.retrieve.index import Index, Records, own_positions, recall_of
from sdc.retrieve.queries import load_index_model

QUERIES = ("code", "float")  # what a query is compared as


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
        query: `code` ranks by Hamming distance; `float` by the cosine of a query's features with what the codes decode
            to, for models with byte tables. Then `map_all` and curves, which need whole rankings, are left out.
        model: the model that encoded the index, for queries in float; None takes the recorded path.
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
    query: str = "code"
    model: Path | None = None
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
        Queries whose label is -1 are left out, items are relevant to nothing then: `unlabelled` counts both.
        Where the model recorded groups of classes also `groups`: of head, middle and tail each map, the queries it is
        the mean of, and classes. With the protocol `relevant` also `denominators`: map with either of its two. Of an
        approximate index, all that is of exact rankings, and `ivf_recall`, so of type ivf, by cut-off is the share of
        the exact nearest codes that its search finds, one as near as the last of them counting as found.

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
    ranked = len(database) - int((own_positions(queries.rows, database.rows) >= 0).any())
    if not ranked:
        raise SdcError(f"{settings.index} holds nothing but the query itself: there is no ranking to evaluate")
    protocol = protocols.choose(index, settings.index, ranked, settings.protocol, settings.at, settings.denominator)
    _check_curves(settings, protocol)
    unlabelled_figures = _unlabelled(queries, database, protocol)
    queries = protocol.queries
    own = own_positions(queries.rows, database.rows)
    by_cosine = _by_cosine(settings, index, queries, protocol)
    cutoffs = [k for k in CUTOFFS if k <= ranked]
    in_rows = protocol.name == REVISITED
    ranking = _ranking(settings, index, queries, max(*cutoffs, protocol.at) + 1)
    counts = count_distances(ranking, len(queries), own, protocol.relevance, cutoffs, by_cosine, in_rows=in_rows)
    answer: dict[str, Any] = {"protocol": protocol.name, **({"query": "float"} if settings.query == "float" else {})}
    if protocol.name != NEIGHBORS:
        answer["at"] = protocol.at
    answer |= {"queries": len(queries), "database": len(database), **unlabelled_figures}
    if protocol.name == REVISITED:
        answer |= _by_setting(settings, counts)
    elif protocol.name != NEIGHBORS:
        answer |= _by_relevance(settings, index, queries, counts, protocol)
    if by_cosine:
        answer |= metrics.scores(_rankings(settings, counts, None, protocol, cutoffs), "neighbors")
    if index.approximate and settings.query == "code":
        # One search each: with a larger k a query may find too few in its lists, and would be compared with all codes.
        shares = [recall_of(index.search, queries, own, counts.sizes, k) for k in cutoffs]
        answer[f"{index.type.name}_recall"] = dict(zip(map(str, cutoffs), shares, strict=True))
    if protocol.name != NEIGHBORS:
        answer["conventions"] = protocol.conventions(settings.no_hit)
    return answer


def _unlabelled(queries: Records, database: Records, protocol: Protocol) -> dict[str, Any]:
    """How many queries are left out, and how many items are relevant to nothing, since they have no label."""
    left_out = len(queries) - len(protocol.queries)
    if protocol.name != CATEGORY or database.labels is None:
        return {}
    items = int(unlabelled(database.labels).sum())
    if not left_out and not items:
        return {}
    log.info(
        "%d of %d queries have no label and are left out; %d of %d items have none and are relevant to nothing",
        left_out, len(queries), items, len(database),
    )  # fmt: skip
    return {"unlabelled": {"queries": left_out, "database": items}}


def _ranking(settings: EvaluateSettings, index: Index, queries: Records, depth: int) -> Ranking:
    if settings.query == "code":
        return ByDistance(queries, index.database)
    store = encoded_features(index, settings.features, verify=settings.verify)
    return ByTables(load_index_model(index, settings.model), store, queries, index.database, depth)


def _by_cosine(settings: EvaluateSettings, index: Index, queries: Records, protocol: Protocol) -> ByCosine | None:
    """The features' ranking, where it is asked for or there is nothing else to evaluate."""
    if not settings.neighbors and protocol.name != NEIGHBORS:
        return None
    store = encoded_features(index, settings.features, verify=settings.verify)
    return ByCosine(Cosines(store, queries.rows, index.database.rows), protocol.at, protocol.score)


def _by_setting(settings: EvaluateSettings, counts: DistanceCounts) -> dict[str, Any]:
    """The figures of the three settings of the protocol `revisited`."""
    scores = revisited_scores(counts.sizes, counts.hits, counts.by_row, counts.float_aps)
    if not scores:
        raise SdcError(f"no query of {settings.index} has easy or hard items: there is nothing to evaluate")
    return scores


def _check(settings: EvaluateSettings) -> None:
    protocols.check(settings.protocol, settings.denominator, settings.no_hit)
    if settings.neighbors not in (None, "float"):
        raise unknown_name_error("kind of neighbors", str(settings.neighbors), ("float",))
    if settings.query not in QUERIES:
        raise unknown_name_error("reading of the codes", settings.query, QUERIES)
    if settings.at is not None:
        check_at(settings.at)
    if settings.curves is not None:
        precision_recall.check(settings.curves)


def _check_curves(settings: EvaluateSettings, protocol: Protocol) -> None:
    """Refuses what a protocol, or a query in float, does not have; says where neighbors replace labels."""
    if settings.query == "float" and protocol.name == REVISITED:
        raise UsageError("the protocol revisited scores the order by (distance, row) alone: leave out --query float")
    if settings.curves and settings.query == "float":
        raise UsageError("curves are drawn of rankings by Hamming distance: leave out --curves, or --query float")
    if settings.curves and protocol.name == REVISITED:
        raise UsageError("the protocol revisited has three settings, and no curves: leave out --curves")
    if settings.curves and protocol.name == NEIGHBORS:
        raise UsageError(f"{settings.index} has no labels: there are no curves to write without")
    if protocol.name == NEIGHBORS:
        log.info("%s has no labels: the recall of the features' neighbours is evaluated instead", settings.index)


def _rankings(
    settings: EvaluateSettings, counts: DistanceCounts, mark: str | None, protocol: Protocol, cutoffs: Sequence[int]
) -> Rankings:
    """The rankings by one mark; without, those in which nothing is relevant."""
    kept = _kept(mark, protocol)
    sizes, overlaps = counts.sizes[kept], {k: values[kept] for k, values in counts.overlaps.items()}
    hits = np.zeros_like(sizes) if mark is None else counts.hits[mark][kept]
    return Rankings(sizes, hits, protocol.at, protocol.denominator, settings.no_hit, cutoffs, overlaps)


def _kept(mark: str | None, protocol: Protocol) -> np.ndarray:
    """(Q,) bools: the queries that a level of labels has a label of."""
    coarse = protocol.queries.labels_coarse if mark == COARSE else None
    return np.ones(len(protocol.queries), bool) if coarse is None else ~unlabelled(coarse)


def _by_relevance(
    settings: EvaluateSettings, index: Index, queries: Records, counts: DistanceCounts, protocol: Protocol
) -> dict[str, Any]:
    """All figures of rankings in which items are relevant or not; writes the curves where they are asked for.

    Of two levels of labels the finer one comes first.
    """
    first = protocol.relevance.names[0]
    cutoffs = sorted({*counts.overlaps, protocol.at})
    rankings = _rankings(settings, counts, first, protocol, cutoffs)
    scores = _at_level(settings, counts, first, rankings, protocol)
    if COARSE in counts.hits:
        coarse = _at_level(settings, counts, COARSE, _rankings(settings, counts, COARSE, protocol, cutoffs), protocol)
        scores |= {"coarse": coarse, "fall": coarse["map"] - scores["map"]}
    if protocol.name == RELEVANT:
        scores["denominators"] = _by_denominator(rankings)
    groups = index.metadata.get("model", {}).get("groups")
    if groups and first == FINE:
        scores["groups"] = _by_group(groups, queries, rankings)
    if settings.curves:
        precision_recall.write(settings.curves, queries, counts.sizes, rankings.hits, rankings.aps, cutoffs)
    return scores


def _by_denominator(rankings: Rankings) -> dict[str, float]:
    """mAP with the two denominators that are in use for Google Landmarks v2."""
    both: tuple[Denominator, ...] = ("all", "capped")
    return {str(one): METRICS["map"].score(replace(rankings, denominator=one)) for one in both}


def _at_level(
    settings: EvaluateSettings, counts: DistanceCounts, level: str, rankings: Rankings, protocol: Protocol
) -> dict[str, Any]:
    """The figures of one level of labels, or of the ground truth."""
    reached = rankings.reached
    missed = int((~reached).sum())
    if missed:
        log.info(
            "%d of %d queries have no relevant item in their top %d%s: %s",
            missed, len(reached), rankings.at, " by coarse labels" if level == COARSE else "",
            "counted as AP 0" if settings.no_hit == "zero" else "left out of the mean",
        )  # fmt: skip
    scores = metrics.scores(rankings, "relevance")
    if settings.query == "float":
        scores.pop("map_all")
    scores["no_hit"] = {"queries": missed, "rule": settings.no_hit}
    if settings.neighbors:
        by_cosine = np.array([one[level] for one in counts.float_aps])[_kept(level, protocol)]
        scores["map_float"] = rankings.mean(by_cosine, by_cosine > 0)
    return scores


def _by_group(groups: dict[str, list[int]], queries: Records, rankings: Rankings) -> dict[str, Any]:
    """mAP of the queries whose class is in each group; a group without any is left out.

    Where every class is in a group, the maps weighted by their `queries` give that of all.
    """
    counted = rankings.reached | (rankings.no_hit == "zero")
    scores = {}
    for name, classes in groups.items():
        aps = rankings.aps["ap"][counted & np.isin(np.asarray(queries.labels), classes)]
        if len(aps):
            scores[name] = {"map": float(aps.mean()), "queries": len(aps), "classes": len(classes)}
    return scores
