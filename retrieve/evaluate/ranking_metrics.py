"""Average precision of a ranking whose ties are in no particular order.

A ranking is given by its tie groups, nearest first: how many items each has, and how many of those are relevant.
Items within a group may stand in any order, each as likely as another. The measures depend on the groups alone, so
they can't change when the database is permuted.

With n items and h relevant ones before a group, the sum of precisions at the relevant items among the first t
places of the group, m of them relevant and every arrangement as likely, is (i = 1 … t; E[rel_i] = m/t,
E[rel_i·rel_j] = m(m−1)/(t(t−1)))

    (m/t)·(h + 1)·Σ 1/(n+i)  +  m(m−1)/(t(t−1))·Σ (i−1)/(n+i)

and, relevant items standing together in places s+1 … s+m of the ranking, Σ_j (h+j)/(s+j).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from sdc.errors import SdcError, UsageError, unknown_name_error

Order = Literal["expected", "best", "worst"]
Ties = Literal["expected", "best", "worst", "row"]
Denominator = Literal["found", "all", "capped"]


def average_precision(
    distances: np.ndarray,
    relevant: np.ndarray,
    *,
    at: int | None = None,
    ties: Ties = "expected",
    denominator: Denominator = "found",
) -> float:
    """AP@R of one query: the sum of precisions at the relevant items of the top R, over a number of relevant items.

    Args:
        distances: (N,) numbers, the nearest smallest.
        relevant: (N,) bools.
        at: R; None means all.
        ties: `expected` over all orders of equally distant items, exactly; the `best` or `worst` such order; or
            that of the array (`row`).
        denominator: the relevant items that are `found` in the top R, `all` that there are, or these `capped` at R.

    Returns:
        0 where no relevant item is in the top R.

    Raises:
        UsageError: arrays of other shapes or types, `at` < 1, an unknown `ties` or `denominator`.
        SdcError: a distance is NaN.
    """
    distances, relevant = np.asarray(distances), np.asarray(relevant)
    if distances.ndim != 1 or distances.shape != relevant.shape or relevant.dtype != np.bool_:
        raise UsageError(
            "average_precision takes N distances and N bools, found shapes "
            f"{distances.shape} and {relevant.shape} ({relevant.dtype})"
        )
    if ties not in get_args(Ties):
        raise unknown_name_error("ties", ties, get_args(Ties))
    if denominator not in get_args(Denominator):
        raise unknown_name_error("denominator", denominator, get_args(Denominator))
    if distances.dtype.kind == "f" and np.isnan(distances).any():
        raise SdcError(f"distances hold NaN, first at {np.isnan(distances).argmax()}: they can't be ranked")
    limit = min(check_at(len(distances) if at is None else at), len(distances)) if len(distances) else 0
    total = int(relevant.sum())
    if ties == "row":
        ranks = np.flatnonzero(relevant[np.argsort(distances, kind="stable")[:limit]]) + 1
        precisions = np.arange(1, len(ranks) + 1) / ranks
        return float(precisions.sum() / _divisor(denominator, len(ranks), total, limit)) if len(ranks) else 0.0
    if limit < len(distances):
        near = distances <= np.partition(distances, limit - 1)[limit - 1]
        distances, relevant = distances[near], relevant[near]
    _, group, sizes = np.unique(distances, return_inverse=True, return_counts=True)
    hits = np.bincount(group[relevant], minlength=len(sizes))
    below = total - int(hits.sum())  # in a last group, of which nothing but its relevant items is of interest
    return average_precision_of_groups(np.append(sizes, below), np.append(hits, below), limit, ties, denominator)


def check_at(at: int) -> int:
    """`at` if it can be the R of mAP@R; raises UsageError otherwise."""
    if at < 1:
        raise UsageError(f"R of mAP@R must be at least 1, found {at}")
    return at


def _divisor(denominator: Denominator, found: Any, total: int, at: int) -> Any:
    """What AP's sum is divided by, of `found` relevant items in the top `at` and `total` in all; at least 1."""
    return np.maximum({"found": found, "all": total, "capped": min(total, at)}[denominator], 1)


def average_precision_of_groups(
    sizes: np.ndarray, hits: np.ndarray, at: int, order: Order = "expected", denominator: Denominator = "found"
) -> float:
    """AP@at of a ranking with ties: expected over their orders, or the best or worst order's.

    AP@R = Σ_{r≤R} P(r)·rel(r) / (number relevant in the top R), 0 where there is none. The group that straddles R
    is conditioned on m, the relevant ones among its t places above R: m is hypergeometric, and both the numerator and
    the denominator depend on it. The best and worst order are sought over m as well.

    Args:
        sizes: (groups,) items in each group, nearest first; 0 is allowed.
        hits: (groups,) relevant items in each.
        at: R, from 1 on; beyond the last item it means all.
        order: what is asked for.
        denominator: as in `average_precision`; but for `found` it is the same whatever m.
    """
    ends = np.cumsum(sizes)
    at = min(at, int(ends[-1])) if len(ends) else 0
    whole = int(np.searchsorted(ends, at, side="right"))  # groups that end at R or above
    full = sizes[:whole] > 0
    n = (ends - sizes)[:whole][full]  # items before each group
    h = (np.cumsum(hits) - hits)[:whole][full]
    above = float(precision_sums(n, h, sizes[:whole][full], hits[:whole][full], order).sum())
    found = int(hits[:whole].sum())
    before = int(ends[whole - 1]) if whole else 0
    total = int(hits.sum())
    if at == before:
        return float(above / _divisor(denominator, found, total, at))
    size, relevant, places = int(sizes[whole]), int(hits[whole]), at - before
    m = np.arange(max(0, places - (size - relevant)), min(relevant, places) + 1)
    one = np.ones_like(m)
    numerator = above + precision_sums(before * one, found * one, places * one, m, order)
    values = np.asarray(numerator / _divisor(denominator, found + m, total, at), np.float64)
    if order == "best":
        return float(values.max())
    if order == "worst":
        return float(values.min())
    return float(values @ _hypergeometric(size, relevant, places, m))


def precision_sums(n: np.ndarray, h: np.ndarray, t: np.ndarray, m: np.ndarray, order: Order) -> np.ndarray:
    """The sum of precisions at the m relevant ones of the t ≥ 1 places after n items, h of which are relevant."""
    table = harmonic(int((n + t).max(initial=0)))
    if order == "expected":
        first = table[n + t] - table[n]  # Σ 1/(n+i)
        second = t - (n + 1) * first  # Σ (i−1)/(n+i)
        pairs = m * (m - 1) / np.maximum(t * (t - 1), 1)
        return np.asarray(m / t * (h + 1) * first + pairs * second, dtype=np.float64)
    start = n if order == "best" else n + t - m
    return np.asarray(m + (h - start) * (table[start + m] - table[start]), dtype=np.float64)


def _hypergeometric(size: int, relevant: int, places: int, m: np.ndarray) -> np.ndarray:
    """P(m of `places` drawn from `size`, `relevant` of them good, are good) for every m there can be.

    By the ratios of neighbors from the mode outwards, which is exact to rounding; factorials would not be.
    """
    low = m[:-1]
    ratios = (relevant - low) * (places - low) / ((low + 1.0) * (size - relevant - places + low + 1))
    mode = int((ratios >= 1).sum())
    down = np.cumprod(1 / ratios[:mode][::-1])[::-1]
    weights = np.concatenate([down, [1.0], np.cumprod(ratios[mode:])])
    return np.asarray(weights / weights.sum())


def harmonic(upto: int) -> np.ndarray:
    """H_0 … H_n for some n ≥ `upto`, in extended precision where the machine has it."""
    return _harmonic_table(1 << max(10, upto.bit_length()))


@lru_cache(maxsize=2)
def _harmonic_table(length: int) -> np.ndarray:
    table = np.zeros(length, np.longdouble)
    np.cumsum(1 / np.arange(1, length, dtype=np.longdouble), out=table[1:])
    return table
