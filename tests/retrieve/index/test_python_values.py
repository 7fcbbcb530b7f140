"""What Python hands to `Index.build`: kept exactly or refused, in copies as in files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdc
from sdc.errors import SdcError, UsageError
from sdc.retrieve.index import Index

CODES = np.random.default_rng(0).integers(0, 256, (12, 4), np.uint8)


def kept(tmp_path, **given_):
    """What an index has of its items, once it is built, and once it is saved and opened."""
    index = Index.build(CODES, **given_)
    again = Index.open(index.save(tmp_path / "db.bin"))
    for name in ("labels", "labels_coarse", "rows"):
        np.testing.assert_array_equal(getattr(index.database, name), getattr(again.database, name))
    assert index.database.names() == again.database.names()
    assert index.database.classes == again.database.classes
    return again.database


@pytest.mark.parametrize(
    "ids",
    [
        list(range(100, 112)), np.arange(100, 112), np.arange(100, 112).astype(np.uint64), torch.arange(100, 112),
        [str(number) for number in range(100, 112)], np.arange(100, 112).astype("U9"), np.arange(100, 112).astype("S9"),
        [str(number).encode() for number in range(100, 112)], np.arange(100, 112).astype(object), range(100, 112),
    ],
)  # fmt: skip
def test_ids_may_be_numbers_texts_or_bytes(tmp_path, ids):
    assert kept(tmp_path, ids=ids).names() == [str(number) for number in range(100, 112)]


def test_ids_beyond_64_bits_keep_their_digits(tmp_path):
    ids = [10**30 + number for number in range(12)]
    assert kept(tmp_path, ids=ids).names() == [str(name) for name in ids]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.5] * 12, r"id 0: found 1\.5, a float, expected text, a whole number or bytes"),
        ([True] * 12, "id 0: found True, a bool"),
        (["a"] * 11 + [None], "id 11: found None"),
        ("abcdefghijkl", "found the text 'abcdefghijkl'"),
        (["a"] * 11 + ["\ud800"], "id 11: .* is not valid Unicode"),
    ],
)
def test_ids_of_another_kind_are_refused(ids, message):
    with pytest.raises(UsageError, match=message):
        Index.build(CODES, ids=ids)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4", ">u8", "bool"]),
    st.data(),
)
def test_labels_of_any_integer_type_are_kept_or_refused(dtype, data):
    kind = np.dtype(dtype)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(kind).min, np.iinfo(kind).max)
    values = data.draw(st.lists(st.integers(int(low), int(high)), min_size=12, max_size=12))
    labels = np.array(values, kind)
    if all(-(2**31) <= value < 2**31 for value in values):
        assert Index.build(CODES, labels=labels).database.arrays("x")["x.labels"].tolist() == values
    else:
        with pytest.raises(UsageError, match=r"expected -2147483648 to 2147483647"):
            Index.build(CODES, labels=labels)


def test_labels_beyond_32_bits_are_refused_when_built():
    with pytest.raises(UsageError, match="labels: found numbers from 7080030971 to 7080030973"):
        Index.build(CODES, labels=7_080_030_971 + np.arange(12) % 3)
    for wide in ([2**70] * 12, np.full((12, 3), 2)):
        with pytest.raises(UsageError, match="labels"):
            Index.build(CODES, labels=wide)


def test_labels_that_are_names_become_classes(tmp_path):
    names = ["dog", "cat", "Straße"] * 4
    for labels in (names, np.array(names), np.array(names, object), [name.encode() for name in names]):
        database = kept(tmp_path, labels=labels)
        classes = database.classes["labels"]
        assert [classes[label] for label in database.labels.tolist()] == names
    assert kept(tmp_path, labels=["1", "2", "10"] * 4).labels.tolist() == [1, 2, 10] * 4
    with pytest.raises(UsageError, match="names, beside names of classes"):
        Index.build(CODES, labels=names, classes={"labels": {0: "x"}})


def test_rows_of_64_bits_are_kept_and_larger_ones_refused(tmp_path):
    rows = np.arange(12, dtype=np.uint64) + 2**63 - 12
    assert kept(tmp_path, rows=rows).rows.tolist() == rows.tolist()
    with pytest.raises(UsageError, match="row numbers: found 9223372036854775808, expected at most"):
        Index.build(CODES, rows=rows + np.uint64(1))
    with pytest.raises(UsageError, match="row numbers"):
        Index.build(CODES, rows=[2**70 + number for number in range(12)])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("public", [Index, sdc.Index])
def test_an_index_in_memory_can_be_copied(copied, kind, public):
    codes = np.random.default_rng(1).integers(0, 256, (3000, 4), np.uint8)
    names = [f"x{row}" for row in range(len(codes))]
    index = public.build(codes, ids=names, labels=np.arange(len(codes)) % 7, index_type=kind, metadata={"mine": 1})
    again = copied(index)
    assert type(again) is public
    assert (again.path, again.metadata, again.fingerprint) == (None, index.metadata, index.fingerprint)
    assert again.database.names() == names
    for found, expected in zip(again.search(codes[:9], 5), index.search(codes[:9], 5), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_copy_of_an_index_of_a_file_opens_that_file(tmp_path):
    path = Index.build(CODES, ids=range(12)).save(tmp_path / "db.bin")
    index = Index.open(path)
    data = pickle.dumps(index)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert (again.path, again.fingerprint) == (path, index.fingerprint)
    Index.build(CODES[::-1]).save(path)
    with pytest.raises(SdcError, match="was changed or replaced since"):
        pickle.loads(data)


def test_a_copy_keeps_its_model_and_attached_features():
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    hasher = sdc.Hasher(bits=16, method="lsh").fit(x)
    index = sdc.Index.build(hasher.encode(x), model=hasher).attach(x)
    again = pickle.loads(pickle.dumps(index))
    for found, expected in zip(again.search(x[:3], 4, rerank=3), index.search(x[:3], 4, rerank=3), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"bits": "64"}, r"bits = '64': expected a whole number, found str"),
        ({"bits": 64.0}, r"bits = 64.0: expected a whole number, found float"),
        ({"bits": None, "epochs": True}, "epochs = True: expected a whole number"),
        ({"budget": "1s"}, r"budget = '1s': expected a number, found str"),
        ({"method": 3}, "method = 3: expected a name"),
        ({"goal": ["neighbors"]}, "goal = .*: expected a name"),
        ({"preset": None}, "preset = None: expected a name"),
        ({"supervised": 1}, "supervised = 1: expected True or False"),
        ({"lr": [0.1]}, "lr = .*: expected a number"),
        ({"device": 0}, "device = 0: expected a name"),
    ],
)
def test_settings_of_another_type_are_refused(given_, message):
    with pytest.raises(UsageError, match=message):
        sdc.Hasher(**given_)


def test_settings_may_be_numpy_numbers():
    recipe = sdc.Hasher(bits=np.int64(32), epochs=np.uint8(3), lr=np.float64(0.5), norm=np.bool_(True)).recipe
    assert [type(value) for value in (recipe.bits, recipe.epochs, recipe.lr, recipe.norm)] == [int, int, float, bool]


def test_numbers_of_a_search_are_whole():
    index = Index.build(CODES)
    for call in (lambda: index.search(CODES, "3"), lambda: index.range_search(CODES, 1.5)):
        with pytest.raises(UsageError, match="expected a whole number"):
            call()
    for bad in ({"recall": "x"}, {"memory": "1GB"}, {"index_type": 3}):
        with pytest.raises(UsageError, match=f"{next(iter(bad))} = .*: expected a"):
            Index.build(CODES, **bad)
