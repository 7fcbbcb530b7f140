"""`Index` and db.bin: the order of results, the format, and what is refused."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sdc
from sdc.errors import SdcError, UsageError
from sdc.retrieve.bits import hamming
from sdc.retrieve.index import file_format
from sdc.retrieve.index.faiss_layout import FLAT_HEADER
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records

GOLDEN = Path(__file__).with_name("golden") / "db.bin"
faiss = pytest.importorskip("faiss")


def golden_maker():
    spec = importlib.util.spec_from_file_location("golden_index", GOLDEN.with_name("make.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def brute_force(queries, codes, rows, k):
    distances = hamming(queries, codes)
    order = np.lexsort((np.broadcast_to(rows, distances.shape), distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), rows[order]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),  # database
    st.integers(0, 5),  # queries
    st.sampled_from([1, 2, 3, 8, 9, 16]),  # bytes of a code
    st.integers(1, 4),  # values of a byte: few, so that nearly everything ties
    st.integers(0, 2**32),
)
def test_search_is_brute_force_in_order_for_every_k(n, q, width, values, seed):
    rng = np.random.default_rng(seed)
    codes, queries = (rng.integers(0, values, (count, width), dtype=np.uint8) for count in (n, q))
    rows = rng.permutation(3 * n)[:n]
    index = Index.build(codes, rows=rows)
    for k in range(1, n + 1):
        distances, found = index.search(queries, k)
        expected = brute_force(queries, codes, rows, k)
        assert (distances == expected[0]).all()
        assert (found == expected[1]).all()
        assert (distances.dtype, found.dtype) == (np.int32, np.int64)
    assert index.search(queries, n + 100)[0].shape == (q, n)


def test_massive_ties_keep_their_order_alone_and_in_a_batch():
    rng = np.random.default_rng(0)
    codes, queries = (rng.integers(0, 2, (count, 8), dtype=np.uint8) for count in (20_000, 40))
    index = Index.build(codes)
    for k in (1, 10, 1000, 19_999, 20_000):
        expected = brute_force(queries, codes, np.arange(20_000), k)
        distances, rows = index.search(queries, k)
        assert (distances == expected[0]).all()
        assert (rows == expected[1]).all()
        assert (index.search(queries[3:4], k)[1] == expected[1][3:4]).all()


def test_the_public_name_is_this_class_with_features():
    assert issubclass(sdc.Index, Index)
    assert isinstance(sdc.Index.build(np.zeros((3, 2), np.uint8)), sdc.Index)


def test_a_saved_index_comes_back_whole(tmp_path):
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 256, (500_000, 8), dtype=np.uint8)  # several checksummed chunks
    labels = (rng.random((500_000, 3)) < 0.5).astype(np.uint8)
    ids = [f"ü/{i}" for i in range(len(codes))]
    queries = Records(codes[:7], np.arange(7), Ids.of(ids[:7]), labels[:7])
    built = Index.build(codes, ids=ids, labels=labels, queries=queries, metadata={"settings": {"a": 1}})
    found = Index.open(built.save(tmp_path / "db.bin"))
    assert (found.ntotal, len(found), found.bits) == (500_000, 500_000, 64)
    assert found.metadata == built.metadata
    assert found.metadata["settings"] == {"a": 1}
    for one, other in ((found.database, built.database), (found.queries, built.queries)):
        assert one.names() == other.names()
        for name in ("codes", "rows", "labels"):
            assert (getattr(one, name) == getattr(other, name)).all()
    assert all((a == b).all() for a, b in zip(found.search(codes[:9], 50), built.search(codes[:9], 50), strict=True))
    assert found.ids(np.array([3, 499_999])) == ["ü/3", "ü/499999"]
    assert Index.open(found.save(tmp_path / "again.bin")).fingerprint == found.fingerprint
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "db.bin").read_bytes()


def test_plain_faiss_reads_our_file_mapped_or_not():
    expected = golden_maker().codes(24, 0)
    for flags in (0, faiss.IO_FLAG_MMAP_IFC):
        index = faiss.read_index_binary(str(GOLDEN), flags)
        assert (index.ntotal, index.d) == (24, 32)
        assert index.search(expected, 1)[0].max() == 0


def test_the_faiss_part_is_what_faiss_itself_writes(tmp_path):
    codes = np.arange(80, dtype=np.uint8).reshape(10, 8)
    plain = faiss.IndexBinaryFlat(64)
    plain.add(codes)
    faiss.write_index_binary(plain, str(tmp_path / "plain.faiss"))
    written = Index.build(codes).save(tmp_path / "db.bin").read_bytes()
    assert written.startswith((tmp_path / "plain.faiss").read_bytes())


def test_an_index_without_codes_is_refused(tmp_path):
    faiss.write_index_binary(faiss.IndexBinaryFlat(64), str(tmp_path / "empty.faiss"))
    with pytest.raises(SdcError, match="holds no codes, expected at least one"):
        Index.open(tmp_path / "empty.faiss")


def test_the_golden_file_reads_and_is_written_the_same(tmp_path):
    index = Index.open(GOLDEN)
    assert index.vouched
    assert index.fingerprint == "b927f2aae5a57b1efdf84e09d794e28e"
    assert index.database.rows.tolist() == list(range(1, 73, 3))
    assert index.database.names(np.array([0, 23])) == ["bild-1-ä", "bild-70-ä"]
    assert index.database.labels.tolist() == [0, 1, 2] * 8
    assert index.queries.names() == [f"query-{i}" for i in range(5)]
    assert {k: index.metadata[k] for k in ("count", "bits", "bit_order", "index_type")} == {
        "count": 24, "bits": 32, "bit_order": "least significant first", "index_type": "flat",
    }  # fmt: skip
    assert index.search(index.queries.codes[:2], 3)[1].tolist() == GOLDEN_ROWS
    again = golden_maker().build(version=index.metadata["version"]).save(tmp_path / "db.bin")
    assert again.read_bytes() == GOLDEN.read_bytes()


@pytest.mark.parametrize(
    "classes", [{"label": {0: "cat"}}, {"labels": ["cat"]}, {"labels": {"first": "cat"}}, {"labels": {0: 7}}, ["cat"]]
)
def test_names_of_classes_that_are_none_are_refused(classes):
    with pytest.raises(UsageError, match="classes: expected names by level and number, such as"):
        Index.build(np.zeros((2, 1), np.uint8), labels=[0, 0], classes=classes)


def test_the_golden_file_with_names_reads_and_is_written_the_same(tmp_path):
    named = GOLDEN.with_name("named.bin")
    index = Index.open(named)
    assert index.database.classes == {"labels": golden_maker().NAMES}
    assert index.items.classes == index.database.classes
    assert Index.open(GOLDEN).items.classes == {}
    again = golden_maker().build(golden_maker().NAMES, version="golden").save(tmp_path / "db.bin")
    assert again.read_bytes() == named.read_bytes()


GOLDEN_ROWS = [[19, 40, 49], [1, 43, 22]]


def damaged_variants():
    """About 600: the file cut at many lengths, and a bit flipped in every region and at most places."""
    whole = GOLDEN.read_bytes()
    faiss_bytes = FLAT_HEADER.size + 24 * 4
    rng = np.random.default_rng(0)
    cuts = {*range(0, len(whole), 17), *range(len(whole) - 60, len(whole)), *range(faiss_bytes - 3, faiss_bytes + 9)}
    for length in sorted(cuts - {faiss_bytes}):  # cut just there it is what plain FAISS writes
        yield f"cut at {length}", whole[:length]
    places = {*range(FLAT_HEADER.size + 8), *range(len(whole) - 56, len(whole)), *range(0, len(whole), 7)}
    for place in sorted(places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        yield f"flip at {place}", bytes(flipped)
    yield "bytes after the end", whole + b"\0"
    yield "twice", whole * 2


def test_every_damaged_variant_is_refused(tmp_path):
    path = tmp_path / "db.bin"
    messages = {}
    for what, data in damaged_variants():
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        try:
            messages[what] = f"opened: {Index.open(path)}"
        except SdcError as error:
            messages[what] = str(error)
    assert len(messages) > 300
    assert [what for what, message in messages.items() if str(path) not in message or "\n" in message] == []
    assert [what for what, message in messages.items() if message.startswith("opened")] == []


def test_unverified_a_damaged_file_is_opened_or_refused(tmp_path):
    path = tmp_path / "db.bin"
    refused = 0
    for _, data in damaged_variants():
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        try:
            index = Index.open(path, verify=False)
            index.search(index.database.codes[:2], 5)
        except SdcError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("content", [b"", b"x", b"\x89HDF\r\n\x1a\n" + bytes(100), b"IBxF" + b"\xff" * 60, bytes(5000)])
def test_files_of_another_kind_are_refused(tmp_path, content):
    path = tmp_path / "db.bin"
    path.write_bytes(content)
    for verify in (True, False):
        with pytest.raises(SdcError, match=r"db\.bin"):
            Index.open(path, verify=verify)


def test_a_float_faiss_index_is_refused_by_its_mark(tmp_path):
    faiss.write_index(faiss.IndexFlatL2(16), str(tmp_path / "l2"))
    with pytest.raises(SdcError, match=r"begins with b'I.*`sdc encode` makes one"):
        Index.open(tmp_path / "l2")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(SdcError, match=r"no index at .*none\.bin.*sdc encode"):
        Index.open(tmp_path / "none.bin")
    with pytest.raises(SdcError, match="is a folder"):
        Index.open(tmp_path)


def test_a_plain_faiss_file_is_accepted_with_a_warning(tmp_path, caplog):
    codes = np.random.default_rng(0).integers(0, 256, (50, 4), dtype=np.uint8)
    plain = faiss.IndexBinaryFlat(32)
    plain.add(codes)
    faiss.write_index_binary(plain, str(tmp_path / "plain.bin"))
    with caplog.at_level(logging.WARNING, "sdc"):
        index = Index.open(tmp_path / "plain.bin")
    assert "nothing vouches" in caplog.text
    assert not index.vouched
    assert index.search(codes[7:8], 1)[1].tolist() == [[7]]
    assert index.ids(np.array([7, 12])) == ["7", "12"]
    with pytest.raises(UsageError, match="records no model"):
        index.recorded("model")


def test_a_mapped_index_cannot_be_changed_and_survives_its_file(tmp_path):
    path = tmp_path / "db.bin"
    shutil.copy(GOLDEN, path)
    index = Index.open(path)
    assert not any(hasattr(index, name) for name in ("add", "remove", "add_with_ids", "remove_ids", "reset"))
    with pytest.raises(ValueError, match="read-only"):
        index.database.codes[0, 0] = 1
    before = index.search(index.queries.codes, 24)
    Index.build(np.zeros((3, 4), np.uint8)).save(path)  # a new file takes the name, the map keeps the old one
    os.remove(path)
    assert all((a == b).all() for a, b in zip(index.search(index.queries.codes, 24), before, strict=True))


def test_a_file_replaced_after_its_verification_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "db.bin"
    shutil.copy(GOLDEN, path)
    read = file_format.read

    def read_then_replace(*args, **options):
        held = read(*args, **options)
        Index.build(np.zeros((24, 4), np.uint8)).save(path)
        return held

    with monkeypatch.context() as patched:
        patched.setattr(file_format, "read", read_then_replace)
        with pytest.raises(SdcError, match="replaced 10 times while it was being opened"):
            Index.open(path)
    assert not Index.open(path).database.codes.any()


def test_a_file_replaced_while_it_is_opened_is_opened_again(tmp_path, monkeypatch):
    path = tmp_path / "db.bin"
    shutil.copy(GOLDEN, path)
    read, replaced = file_format.read, []

    def read_then_replace(*args, **options):
        held = read(*args, **options)
        if not replaced:
            replaced.append(Index.build(np.zeros((24, 4), np.uint8)).save(path))
        return held

    monkeypatch.setattr(file_format, "read", read_then_replace)
    index = Index.open(path)
    assert not index.database.codes.any()
    assert index.current()
    Index.build(np.ones((24, 4), np.uint8)).save(path)
    assert not index.current()


@pytest.mark.parametrize(
    ("codes", "k", "message"),
    [
        (np.zeros((1, 8), np.uint8), 1, "query codes have 64 bits, this index has 32"),
        (np.zeros((1, 4)), 1, r"must be \(Q, bits // 8\) uint8, found float64"),
        (np.zeros(4, np.uint8), 1, r"found uint8 of shape \(4,\)"),
        (np.zeros((1, 4), np.uint8), 0, "k must be at least 1, found 0"),
        (np.zeros((1, 4), np.uint8), -3, "k must be at least 1, found -3"),
    ],
)
def test_a_search_that_does_not_fit_is_refused(codes, k, message):
    with pytest.raises(UsageError, match=message):
        Index.open(GOLDEN).search(codes, k)


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (np.zeros((0, 4), np.uint8), {}, "at least one code"),
        (np.zeros((3, 4)), {}, "uint8, found float64"),
        (np.zeros((3, 0), np.uint8), {}, "uint8"),
        (np.zeros((3, 4), np.uint8), {"ids": ["a"]}, "3 ids, found 1"),
        (np.zeros((3, 4), np.uint8), {"labels": np.zeros(3)}, "whole-number labels.*float64"),
        (np.zeros((3, 4), np.uint8), {"labels": np.zeros(2, int)}, r"found int64 of shape \(2,\)"),
        (np.zeros((3, 4), np.uint8), {"rows": np.array([1, 2, 1])}, "1 occurs twice"),
        (np.zeros((3, 4), np.uint8), {"rows": np.array([1.5, 2, 1])}, "row numbers"),
        (np.zeros((3, 4), np.uint8), {"queries": Records(np.zeros((1, 8), np.uint8), np.zeros(1, int))}, "in width"),
    ],
)
def test_an_index_of_parts_that_do_not_fit_is_refused(codes, options, message):
    with pytest.raises(UsageError, match=message):
        Index.build(codes, **options)


def test_codes_given_are_copied():
    codes = np.zeros((3, 4), np.uint8)
    index = Index.build(codes)
    codes[:] = 255
    assert index.search(np.zeros((1, 4), np.uint8), 3)[0].tolist() == [[0, 0, 0]]
    assert not index.database.codes.any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=20))
def test_ids_are_found_where_they_first_stand(names):
    ids = Ids.of(names)
    assert ids.take(np.arange(len(names))) == names
    for name in names:
        assert ids.find(name) == names.index(name)
    assert ids.find("not one of them") == -1


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *rest, **more: real("/dev/full", *rest, **more))
    with pytest.raises(SdcError, match=r"disk is full.*"):
        Index.build(np.zeros((200_000, 8), np.uint8)).save(tmp_path / "db.bin")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("within", [np.ones(20, bool), np.array([1.0, 2.0])])
def test_a_mask_is_not_taken_for_rows(within):
    index = Index.build(np.arange(160, dtype=np.uint8).reshape(20, 8))
    with pytest.raises(UsageError, match="row numbers"):
        index.search(index.database.codes[:1], 3, within=within)
    assert index.search(index.database.codes[:1], 3, within=np.array([]))[1].shape == (1, 0)


def test_ivf_indexes_are_opened_by_threads_at_once(tmp_path):
    rng = np.random.default_rng(4)
    path = Index.build(rng.integers(0, 256, (3000, 8), dtype=np.uint8), index_type="ivf").save(tmp_path / "db.bin")
    large = Index.build(rng.integers(0, 256, (9000, 16), dtype=np.uint8), index_type="ivf").save(tmp_path / "large.bin")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: Index.open(each).ntotal, [path, large] * 100))
    assert found == [3000, 9000] * 100
