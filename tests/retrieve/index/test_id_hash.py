"""Ids are found where a search through all of them would find them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdc.retrieve.index import id_hash
from sdc.retrieve.index.id_hash import IdLookup
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.records import Records

IDS = st.lists(st.text(alphabet="ab\0é\udcff/", max_size=5), min_size=1, max_size=60)


def entries(ids):
    count = len(ids)
    return Records(np.zeros((count, 1), np.uint8), np.arange(count) * 3, Ids.of(ids))


@given(IDS, st.text(alphabet="ab\0é\udcff/", max_size=6))
def test_the_first_of_an_id_is_found(ids, other):
    held = entries(ids)
    made = IdLookup(held)
    for name in [*ids, other]:
        assert made.find(name) == held.find(name) == (ids.index(name) if name in ids else -1)


def test_ids_in_several_blocks_are_found(monkeypatch):
    monkeypatch.setattr(id_hash, "_BLOCK", 7)
    ids = [f"{'x' * (number % 5)}{number % 90}" for number in range(200)]
    made = IdLookup(entries(ids))
    assert [made.find(name) for name in ids] == [ids.index(name) for name in ids]


def test_ids_whose_hashes_are_equal_are_told_apart(monkeypatch):
    monkeypatch.setattr(id_hash, "_hashes", lambda ids, weights: np.zeros(len(ids), np.uint64))
    ids = ["a", "b", "a", "", "c"]
    made = IdLookup(entries(ids))
    assert [made.find(name) for name in ("a", "b", "", "c", "d")] == [0, 1, 3, 4, -1]


@pytest.mark.parametrize("name", ["5", "6", "05", "x", "", "\ud800", "9" * 30, "٣"])
def test_without_ids_an_id_is_its_row(name):
    held = Records(np.zeros((4, 1), np.uint8), np.arange(4) * 3)
    assert IdLookup(held).find(name) == held.find(name) == (2 if name == "6" else -1)


def test_what_no_id_can_be_is_not_found():
    assert IdLookup(entries(["a"])).find("\ud800") == -1
    assert IdLookup(entries(["", ""])).find("a") == -1
