"""The revisited protocol of Oxford and Paris (Radenović et al. 2018): easy, medium and hard.

In each of the three settings some of a query's marked items are positives and others are ignored, which means taken
out of its ranking. Of P positives the j-th (from 0) standing at rank r (from 0)

    AP = 1/P · Σ_j (a_j + (j+1)/(r+1)) / 2,    a_j = j/r, or 1 where r = 0
    mP@k = (positives among the first k') / k',    k' = min(k, rank from 1 of the last positive)

Expected over the orders of ties, both are sums over the groups of ties. Of a group of g items, m of them positive, that
come after n items, h of them positive, the sum of (j+1)/(r+1) is as for any AP (see
`sdc.retrieve.evaluate.ranking_metrics`), and of a_j

    (m/g)·h·Σ 1/(n+i−1)  +  m(m−1)/(g(g−1))·Σ (i−1)/(n+i−1),    i = 1 … g;    m²/g where n = 0

The last positive stands at place i of the last group with positives with probability C(i−1, m−1)/C(g, m).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any, get_args

import numpy as np

from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.retrieve.evaluate.ranking_metrics import Order, Ties, harmonic, precision_sums

MARKS = ("easy", "hard", "junk")
SETTINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # the positives and the ignored
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}
CUTOFFS = (1, 5, 10)  # k of mP@k

Lists = Sequence[Sequence[int] | np.ndarray]


def revisited(
    distances: np.ndarray, easy: Lists, hard: Lists, junk: Lists, *, ties: Ties = "row"
) -> dict[str, dict[str, Any]]:
    """mAP and mP@k of the three settings.

    Args:
        distances: (Q, N) numbers, the nearest smallest.
        easy, hard, junk: of each query, the columns that are so; none is two of these.
        ties: the order of equally distant items: that of the columns (`row`), the `best` or `worst` there is, or the
            mean over all of them, exactly (`expected`).

    Returns:
        {"easy": {"map": …, "mp": {1: …, 5: …, 10: …}}, "medium": …, "hard": …}, means over the queries that have
        positives in the setting; NaN where none has.

    Raises:
        UsageError: shapes that do not fit, a column that is not there or is listed twice, an unknown `ties`.
        SdcError: a distance is NaN.
    """
    distances = np.asarray(distances)
    lists = dict(zip(MARKS, (easy, hard, junk), strict=True))
    if distances.ndim != 2 or any(len(one) != len(distances) for one in lists.values()):
        found = ", ".join(f"{len(one)} {mark}" for mark, one in lists.items())
        raise UsageError(f"revisited takes (Q, N) distances and Q lists each, found {distances.shape} and {found}")
    if ties not in get_args(Ties):
        raise unknown_name_error("ties", ties, get_args(Ties))
    if distances.dtype.kind == "f" and np.isnan(distances).any():
        raise SdcError(f"distances hold NaN, first of query {np.isnan(distances).any(axis=1).argmax()}")
    measured = []
    for q, row in enumerate(distances):
        marks = _marked(q, len(row), {mark: one[q] for mark, one in lists.items()})
        if ties == "row":
            in_order = marks[np.argsort(row, kind="stable")]
            ranks = np.flatnonzero(in_order)
            measured.append(of_ranks(ranks, in_order[ranks]))
        else:
            _, group, sizes = np.unique(row, return_inverse=True, return_counts=True)
            hits = {mark: np.bincount(group[marks == 1 << bit], minlength=len(sizes)) for bit, mark in enumerate(MARKS)}
            measured.append(of_groups(sizes, hits, ties))
    return {
        setting: {"map": float(values[0]), "mp": dict(zip(CUTOFFS, values[1:].tolist(), strict=True))}
        for setting, values in means(measured).items()
    }


def _marked(q: int, count: int, lists: Mapping[str, Sequence[int] | np.ndarray]) -> np.ndarray:
    """(N,) the marks of one query's items as bits."""
    marks = np.zeros(count, np.uint8)
    for bit, (mark, columns) in enumerate(lists.items()):
        places = np.asarray(columns, np.int64)
        outside = places[(places < 0) | (places >= count)]
        if len(outside):
            raise UsageError(f"{mark} of query {q} has {outside[0]}, expected columns 0 to {count - 1}")
        taken = places[marks[places] > 0]
        if len(taken) or len(np.unique(places)) < len(places):
            raise UsageError(f"{mark} of query {q} has columns that are listed twice, expected each once or never")
        marks[places] = 1 << bit
    return marks


def of_ranks(ranks: np.ndarray, marks: np.ndarray) -> dict[str, np.ndarray]:
    """AP and the mP@k of one query, by setting.

    Args:
        ranks: (m,) the ranks, from 0 and ascending, of all items that have a mark.
        marks: (m,) their marks as bits, in the order of `MARKS`.

    Returns:
        (1 + cut-offs,) each; NaN where there are no positives.
    """
    found = {}
    for setting, (positive, ignored) in SETTINGS.items():
        is_positive, is_ignored = ((marks & sum(1 << MARKS.index(name) for name in s)) > 0 for s in (positive, ignored))
        found[setting] = _measure((ranks - np.cumsum(is_ignored))[is_positive])
    return found


def _measure(ranks: np.ndarray) -> np.ndarray:
    """AP and the mP@k of positives at these ranks, from 0 and ascending."""
    if not len(ranks):
        return np.full(1 + len(CUTOFFS), np.nan)
    j = np.arange(len(ranks))
    before = np.divide(j, ranks, out=np.ones(len(ranks)), where=ranks > 0)
    cutoffs = np.minimum(CUTOFFS, ranks[-1] + 1)
    precision = (ranks[:, None] < cutoffs).sum(axis=0) / cutoffs
    return np.concatenate([[(before + (j + 1) / (ranks + 1)).mean() / 2], precision])


def of_groups(sizes: np.ndarray, hits: Mapping[str, np.ndarray], order: Order = "expected") -> dict[str, np.ndarray]:
    """AP and the mP@k of one query, by setting, of a ranking with ties.

    Args:
        sizes: (groups,) items in each group, nearest first; 0 is allowed.
        hits: (groups,) of each of `MARKS`, the items that have it; none has two.
        order: the expected values over the orders of ties, or those of the best or worst order.

    Returns:
        (1 + cut-offs,) each; NaN where there are no positives.
    """
    found = {}
    for setting, (positive, ignored) in SETTINGS.items():
        ranked = sizes - sum(hits[mark] for mark in ignored)
        good = np.asarray(sum(hits[mark] for mark in positive))
        n = np.cumsum(ranked) - ranked
        if order == "expected" and good.any():
            ap = _expected_ap(n, ranked, good)
            found[setting] = np.array([ap, *(_expected_precision(n, ranked, good, k) for k in CUTOFFS)])
        else:
            start = n if order == "best" else n + ranked - good  # positives stand together
            within = np.arange(good.sum()) - np.repeat(np.cumsum(good) - good, good)
            found[setting] = _measure(np.repeat(start, good) + within)
    return found


def _expected_ap(n: np.ndarray, sizes: np.ndarray, good: np.ndarray) -> float:
    """Of groups of `sizes` items, `good` of them positive, with `n` items before each."""
    some = good > 0
    n, g, m, h = n[some], sizes[some], good[some], (np.cumsum(good) - good)[some]
    table = harmonic(int((n + g).max()))
    first = table[np.maximum(n + g - 1, 0)] - table[np.maximum(n - 1, 0)]  # Σ 1/(n+i−1) where n > 0
    pairs = m * (m - 1) / np.maximum(g * (g - 1), 1)
    before = np.where(n > 0, m / g * h * first + pairs * (g - n * first), m * m / g)
    return float((before + precision_sums(n, h, g, m, "expected")).sum() / (2 * good.sum()))


def _expected_precision(n: np.ndarray, sizes: np.ndarray, good: np.ndarray, k: int) -> float:
    """mP@k of such groups."""
    last = int(np.flatnonzero(good)[-1])
    before, g, m, total = int(n[last]), int(sizes[last]), int(good[last]), int(good.sum())
    # The positives expected among the first k run linearly through a group.
    reached = float(np.interp(k, np.append(0, n + sizes), np.append(0, np.cumsum(good))))
    places = min(max(k - before, 0), g)  # of the last group, among the first k
    if places < m:
        return reached / k  # the last positive is never among them
    ways = comb(g, m)
    whole = sum(comb(i - 1, m - 1) / ways / (before + i) for i in range(m, places + 1))  # E[1/k'; the last is reached]
    return total * whole + (reached - total * comb(places, m) / ways) / k


def means(measured: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of each setting the mean over the queries that have positives in it; NaN where none has."""
    averages = {}
    for setting in SETTINGS:
        values = np.array([one[setting] for one in measured]).reshape(-1, 1 + len(CUTOFFS))
        defined = values[~np.isnan(values[:, 0])]
        averages[setting] = defined.mean(axis=0) if len(defined) else np.full(1 + len(CUTOFFS), np.nan)
    return averages


def revisited_scores(
    sizes: np.ndarray,
    hits: Mapping[str, np.ndarray],
    by_row: Sequence[tuple[np.ndarray, np.ndarray]],
    float_aps: Sequence[Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
    """The three settings' figures of `sdc evaluate`: those by (distance, row), and with _expected, _best, _worst.

    Args:
        sizes: (Q, groups) items in each group of ties, nearest first.
        hits: of each of `MARKS`, (Q, groups) the items that have it.
        by_row: of each query what `of_ranks` takes.
        float_aps: of each query the AP of each setting in another ranking, the features'; or nothing.

    Returns:
        map, mp and so on of each setting; one in which no query has positives is left out.
    """
    measured = {"": [of_ranks(*placed) for placed in by_row]}
    for order in get_args(Order):
        measured[f"_{order}"] = [
            of_groups(sizes[q], {mark: of_mark[q] for mark, of_mark in hits.items()}, order) for q in range(len(sizes))
        ]
    of_order = {suffix: means(values) for suffix, values in measured.items()}
    scores: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        counted = [not np.isnan(one[setting][0]) for one in measured[""]]
        if not any(counted):
            log.warning("no query has positives in the setting %s: it is left out", setting)
            continue
        score = scores[setting] = {}
        for suffix, values in of_order.items():
            ap, *precisions = values[setting].tolist()
            score |= {f"map{suffix}": ap, f"mp{suffix}": dict(zip(map(str, CUTOFFS), precisions, strict=True))}
        score["queries"] = sum(counted)
        if float_aps:
            score["map_float"] = float(np.array([one[setting] for one in float_aps])[counted].mean())
    return scores
