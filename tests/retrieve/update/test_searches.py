"""Searches near what was removed, exact and in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from sdc.retrieve.index.delta import merged_search
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.index_types import ivf_search
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import RemoveSettings

CLASSES = 4


@pytest.fixture(params=["flat", "ivf"])
def without_a_class(request, tmp_path):
    """An index of 4 classes of codes, one of which was removed, and its codes and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 8000)
    centres = np.repeat(np.array([[0x00], [0x33], [0xCC], [0xFF]], np.uint8), 4, axis=1)
    flips = [rng.integers(0, 256, (8000, 4), dtype=np.uint8) for _ in range(4)]
    codes = centres[labels] ^ (flips[0] & flips[1] & flips[2] & flips[3])
    path = Index.build(codes, index_type=request.param).save(tmp_path / "db.bin")
    changes.remove(RemoveSettings(path, tuple(map(str, np.flatnonzero(labels == 0).tolist()))))
    return path, codes, labels


@pytest.mark.parametrize("cells", [10**9, 1])
@pytest.mark.parametrize("k", [1, 10, 700])
def test_neighbours_of_a_class_that_was_removed(without_a_class, monkeypatch, cells, k):
    path, codes, labels = without_a_class
    monkeypatch.setattr(merged_search, "_CELLS", cells)
    index, rows = Index.open(path, nprobe=10**6 if Index.open(path).approximate else None), np.flatnonzero(labels != 0)
    queries = np.concatenate([codes[labels == 0][:5], codes[labels == 2][:5]])
    distances, found = index.search(queries, k)
    expected = np.bitwise_count(queries[:, None] ^ codes[rows][None]).sum(axis=2, dtype=np.int32)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found, rows[order])
    np.testing.assert_array_equal(distances, np.take_along_axis(expected, order, axis=1))


def test_no_more_neighbours_are_asked_for_at_once_than_fit(without_a_class, monkeypatch):
    path, codes, labels = without_a_class
    index, asked = Index.open(path), []
    kind = ivf_search.IVFSearcher if index.approximate else FlatSearcher
    search = kind.search

    def counted(self, queries, k, within=None):
        asked.append((len(queries) * k, within is None))
        return search(self, queries, k, within)

    monkeypatch.setattr(kind, "search", counted)
    monkeypatch.setattr(merged_search, "_CELLS", 50_000)
    index.search(codes[labels == 0][:100], 10)
    assert max(cells for cells, _ in asked) <= 50_000
    assert [whole for _, whole in asked] == [True, True, False]
