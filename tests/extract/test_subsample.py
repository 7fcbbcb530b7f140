"""`--limit`: samples in proportion to the splits."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.extract.store import SPLITS, Listing
from sdc.extract.subsample import apportion, stratified


@st.composite
def listings(draw: st.DrawFn) -> Listing:
    """Sets in which each row is in any combination of the splits, also in none."""
    patterns = draw(st.lists(st.integers(0, 7), min_size=1, max_size=120))
    splits = {
        name: np.array([row for row, pattern in enumerate(patterns) if pattern >> bit & 1], np.int64)
        for bit, name in enumerate(SPLITS)
    }
    labels = np.array(draw(st.lists(st.integers(0, 4), min_size=len(patterns), max_size=len(patterns))), np.int32)
    kind = draw(st.sampled_from(["none", "single", "several"]))
    chosen = {"none": None, "single": labels, "several": np.eye(5, dtype=np.uint8)[labels]}[kind]
    return Listing([f"{row}" for row in range(len(patterns))], splits, chosen)


def membership(listing: Listing, row: int) -> tuple[bool, ...]:
    return tuple(row in listing.splits[name] for name in SPLITS)


@settings(deadline=None)
@given(listings(), st.integers(1, 150), st.integers(0, 3))
def test_a_sample_keeps_the_proportions(listing: Listing, limit: int, seed: int) -> None:
    n = len(listing.ids)
    rows = stratified(listing, limit, seed)
    assert len(rows) == min(limit, n)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < n
    np.testing.assert_array_equal(rows, stratified(listing, limit, seed))

    sizes = Counter(membership(listing, row) for row in range(n))
    taken = Counter(membership(listing, row) for row in rows.tolist())
    if limit >= len(sizes):
        assert set(taken) == set(sizes)
    small = sum(limit * size < n for size in sizes.values())  # groups that may have been given their one row
    for group, size in sizes.items():
        share = min(limit, n) * size / n
        assert share - 1 - small < taken[group] < share + 1 or taken[group] == 1


@settings(deadline=None)
@given(listings(), st.integers(1, 150))
def test_a_group_spreads_evenly_over_the_classes(listing: Listing, limit: int) -> None:
    if listing.labels is None or listing.labels.ndim == 2:
        return
    rows = stratified(listing, limit, 0)
    for group in {membership(listing, row) for row in rows.tolist()}:
        there = Counter(
            int(listing.labels[row]) for row in range(len(listing.ids)) if membership(listing, row) == group
        )
        taken = Counter(int(listing.labels[row]) for row in rows.tolist() if membership(listing, row) == group)
        most = max(taken.values())
        assert all(taken[label] >= min(size, most - 1) for label, size in there.items())


def test_fashion_mnists_proportions() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int32), 7000)
    order = np.arange(70000) % 7000
    splits = {
        "query": np.flatnonzero(order < 100),
        "train": np.flatnonzero((order >= 100) & (order < 600)),
        "database": np.flatnonzero(order >= 100),
    }
    listing = Listing([f"{row}" for row in range(70000)], splits, labels)
    rows = stratified(listing, 200, 0)
    sample = listing.select(rows)
    assert {name: len(part) for name, part in sample.splits.items()} == {"train": 14, "query": 3, "database": 197}
    assert sample.labels is not None
    counts = np.bincount(sample.labels, minlength=10)
    assert counts.min() >= 18
    assert counts.max() <= 22
    assert rows.tolist() != stratified(listing, 200, 1).tolist()


def test_apportion() -> None:
    # Largest remainders: quotas 14.286, 2.857, 182.857.
    assert apportion([5000, 1000, 64000], 200) == [14, 3, 183]
    assert apportion([1, 1, 998], 10) == [1, 1, 8]
    assert apportion([3, 3], 6) == [3, 3]
    assert apportion([1, 1, 1], 2) == [1, 1, 0]
