"""A smaller set with the proportions of the whole: `--limit`."""

from __future__ import annotations

import numpy as np

from sdc.extract.store import SPLITS, Listing


def stratified(listing: Listing, limit: int, seed: int) -> np.ndarray:
    """At most `limit` random rows of a set, in proportion to its splits.

    Rows are grouped by the splits they are in (train and database, say). The groups share the limit in proportion to
    their sizes by the method of largest remainders, but none goes empty where the limit allows. Within a group the
    rows spread over the classes as evenly as possible, where a row has one label.

    Args:
        limit: at least 1.

    Returns:
        Row numbers, ascending: min(limit, N) of them.
    """
    n = len(listing.ids)
    if limit >= n:
        return np.arange(n)
    pattern = np.zeros(n, np.int64)
    for bit, name in enumerate(SPLITS):
        pattern[listing.splits[name]] |= 1 << bit
    groups = [np.flatnonzero(pattern == value) for value in np.unique(pattern)]
    single = listing.labels if listing.labels is not None and listing.labels.ndim == 1 else np.zeros(n, np.int32)
    rng = np.random.default_rng(seed)
    shares = apportion([len(group) for group in groups], limit)
    sampled = [_spread(group, single[group], share, rng) for group, share in zip(groups, shares, strict=True)]
    return np.sort(np.concatenate(sampled))


def apportion(sizes: list[int], total: int) -> list[int]:
    """Splits `total` <= sum(sizes) in proportion to `sizes` (each >= 1), largest remainders first.

    Each gets at least 1 if `total` >= len(sizes), and never more than its size.
    """
    everything = sum(sizes)
    shares = [total * size // everything for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(total * sizes[i] % everything), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    for i, share in enumerate(shares):
        if share == 0 and (largest := max(range(len(shares)), key=shares.__getitem__)) != i and shares[largest] > 1:
            shares[largest] -= 1
            shares[i] = 1
    return shares


def _spread(rows: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` random rows, the classes as equally frequent as their sizes allow."""
    order = rng.permutation(len(rows))
    rows, labels = rows[order], labels[order]
    classes = rng.permutation(np.unique(labels))  # which classes get one more is left to chance
    # Deal the rows out in rounds: the first of each class, then the second of each, and so on.
    turn, seat = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for number, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        turn[members], seat[members] = np.arange(len(members)), number
    return rows[np.lexsort((seat, turn))[:count]]
