"""Items are known by their ids, whatever these are."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sdc.errors import UsageError
from sdc.retrieve.index import ids as ids_module
from sdc.retrieve.index.index import Index
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import AddSettings, CompactSettings, RemoveSettings


def test_an_index_without_ids_has_its_rows_for_ids(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (50, 4), dtype=np.uint8)
    path = Index.build(codes).save(tmp_path / "db.bin")
    changes.remove(RemoveSettings(path, ("3", "49")))
    index = Index.open(path)
    assert index.ntotal == 48
    assert index.database.names()[3] == "4"
    with pytest.raises(UsageError, match="has no '03', '3'"):
        changes.remove(RemoveSettings(path, ("03", "3", "4")))
    changes.compact(CompactSettings(path))
    np.testing.assert_array_equal(Index.open(path).database.codes, np.delete(codes, [3, 49], axis=0))
    assert Index.open(path).database.ids is None
    with pytest.raises(UsageError, match="records no model"):
        changes.add(AddSettings(path, tmp_path / "feats.h5"))


def test_a_removed_id_is_not_suggested(shelf):
    assert Index.open(shelf.path).items.nearest("first/001") == ["first/001"]
    shelf.remove(["first/001"])
    with pytest.raises(UsageError, match=r"\(1 of 1 ids are unknown\): nothing is removed"):
        shelf.removed(["first/001"])[0]()


def test_ids_that_are_numbers_stay_what_they_are(shelf):
    shelf.add(["0", "1", "2"])  # in their store each is its own row
    assert shelf.check().find("1") == 41
    shelf.remove(["1"])
    shelf.compact()
    assert shelf.check().find("2") == 42


def test_ids_are_told_apart_whatever_bytes_they_have(shelf):
    names = ["é", "日本", "a" * 300, "first/0", "first/000 ", "000"]
    shelf.add(names)
    shelf.check()
    shelf.remove(names[::2])
    shelf.compact()
    shelf.check()


def test_ids_are_looked_up_as_a_dictionary_would(monkeypatch):
    monkeypatch.setattr(ids_module, "_SEARCHED", 7)
    chance = random.Random(0)
    for _ in range(200):
        count = chance.randint(1, 40)
        ids = ["".join(chance.choices("ab\0é", k=chance.randint(0, 18))) for _ in range(count)]
        names = {name.encode() for name in chance.sample(ids, chance.randint(0, count))}
        names |= {"".join(chance.choices("ab", k=chance.randint(0, 9))).encode() for _ in range(5)}
        rows, found = Index.build(np.zeros((count, 1), np.uint8), ids=ids).items.rows_of_ids(names)
        assert rows.tolist() == [row for row, name in enumerate(ids) if name.encode() in names]
        assert found == {name.encode() for name in ids} & names
