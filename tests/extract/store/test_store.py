"""The feature store: what goes in comes out, fast and from any process; what is damaged is refused."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import random
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import warm
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError
from sdc.extract.readers import read_tables
from sdc.extract.store import SPLITS, FeatureStore, Listing, default_splits, file_format, used_numbers, write_features

GOLDEN = Path(__file__).parent / "golden" / "feats.h5"
NAMED = GOLDEN.with_name("named.h5")
BENCH = Path(__file__).parents[3] / "bench" / "store_bench.py"


def content(store: FeatureStore) -> dict[str, Any]:
    """All that a store holds, comparable."""
    return {
        "features": (store.features.dtype.str, store.features.shape, store.features.tobytes()),
        "ids": store.ids(),
        "labels": None if store.labels is None else (store.labels.dtype.str, store.labels.tolist()),
        "labels_coarse": None if store.labels_coarse is None else store.labels_coarse.tolist(),
        "splits": {name: rows.tolist() for name, rows in store.splits.items()},
        "skipped": store.skipped,
        "provenance": store.provenance,
        "fingerprint": store.fingerprint,
    }


def small(n: int = 12, d: int = 4) -> tuple[Listing, np.ndarray]:
    features = np.random.default_rng(0).standard_normal((n, d)).astype(np.float16)
    labels = np.arange(n) % 3
    return Listing([f"bild-ä{row}.jpg" for row in range(n)], default_splits(n, 0), labels), features


def written(path: Path, n: int = 12, d: int = 4) -> Path:
    listing, features = small(n, d)
    skipped = [("broken.jpg", "image file is truncated")]
    return write_features(path, listing, {"source": "import", "seed": 0}, d, np.float16, [features], skipped)


@pytest.fixture(scope="module")
def three_hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("store") / "feats.h5", 300)


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@st.composite
def sets(draw: st.DrawFn) -> dict[str, Any]:
    ids = draw(st.lists(names, min_size=1, max_size=40, unique=True))
    n, d = len(ids), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    single = rng.integers(-(2**31), 2**31, n)
    several = rng.integers(0, 2, (n, draw(st.integers(1, 5))))
    levels = {
        "labels": draw(st.sampled_from([None, single, several])),
        "labels_coarse": draw(st.none() | st.just(single)),
    }
    classes = {}
    for level in draw(st.sets(st.sampled_from(["labels", "labels_coarse"]))):
        if levels[level] is None:
            continue
        numbers = used_numbers(levels[level])
        called = draw(st.lists(names.filter(bool), min_size=len(numbers), max_size=len(numbers), unique=True))
        classes[level] = dict(zip(numbers, called, strict=True))
    return {
        "listing": Listing(
            ids,
            {name: np.flatnonzero(rng.random(n) < 0.5) for name in draw(st.sets(st.sampled_from(SPLITS)))},
            **levels,
            classes=classes,
        ),
        "features": rng.standard_normal((n, d)).astype(draw(st.sampled_from(["float16", "float32"]))),
        "cuts": sorted(draw(st.sets(st.integers(0, n)))),
        "skipped": draw(st.lists(st.tuples(names, names), max_size=3)),
        "provenance": draw(st.dictionaries(st.text(max_size=5), st.integers() | st.none() | names, max_size=3)),
    }


@settings(deadline=None, max_examples=60)
@given(sets())
def test_what_goes_in_comes_out(case: dict[str, Any]) -> None:
    listing, features = case["listing"], case["features"]
    fixed = (listing, case["provenance"], features.shape[1], features.dtype)
    with tempfile.TemporaryDirectory() as name:
        path = write_features(Path(name) / "feats.h5", *fixed, np.split(features, case["cuts"]), case["skipped"])
        store = FeatureStore(path)
        np.testing.assert_array_equal(store.features, features, strict=True)
        assert store.features.dtype == features.dtype
        assert (len(store), store.dimension) == features.shape
        assert store.ids() == list(listing.ids)
        for found, given_ in ((store.labels, listing.labels), (store.labels_coarse, listing.labels_coarse)):
            assert (found is None) == (given_ is None)
            if found is not None:
                np.testing.assert_array_equal(found, given_)
                assert found.dtype == (np.int32 if found.ndim == 1 else np.uint8)
        assert list(store.splits) == list(SPLITS)
        for split in SPLITS:
            np.testing.assert_array_equal(store.splits[split], listing.splits[split])
            assert store.splits[split].dtype == np.int64
        assert store.classes == listing.classes
        assert store.skipped == case["skipped"]
        assert store.provenance == case["provenance"]
        # How the rows came in blocks leaves no trace.
        again = write_features(Path(name) / "again.h5", *fixed, [features], case["skipped"])
        assert again.read_bytes() == path.read_bytes()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 299), max_size=80) | st.integers(0, 299).map(lambda k: list(range(k, 300))),
    st.integers(1, 90),
)
def test_rows_come_in_the_order_asked_for(three_hundred: Path, rows: list[int], size: int) -> None:
    store = FeatureStore(three_hundred)
    chosen, expected = np.array(rows, np.int64), small(300)[1][rows]
    np.testing.assert_array_equal(store.take(chosen), expected)
    blocks = [*store.blocks(chosen, size)]
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 4), np.float16), *blocks]), expected)
    assert store.ids(chosen) == [f"bild-ä{row}.jpg" for row in rows]


long_names = st.builds(lambda text, times: text * times, names, st.sampled_from([1, 1, 1, 50, 400]))


@settings(deadline=None, max_examples=40)
@given(st.lists(long_names, min_size=1, max_size=30, unique=True), st.lists(st.tuples(long_names, names), max_size=20))
def test_texts_of_any_length_come_back(ids: list[str], skipped: list[tuple[str, str]]) -> None:
    features = np.ones((len(ids), 2), np.float32)
    with tempfile.TemporaryDirectory() as name:
        path = write_features(Path(name) / "f.h5", Listing(ids, {}), {}, 2, "f4", [features], skipped)
        store = FeatureStore(path)
        assert store.ids() == ids
        assert store.ids(np.arange(len(ids))[::-2]) == ids[::-2]
        assert store.skipped == skipped
        (column,) = [table for table in read_tables(path) if table.name == "ids"]
        assert column.read().tolist() == ids


def test_one_long_id_costs_its_own_length(tmp_path: Path) -> None:
    n, length = 600, 100_000
    ids = ["x" * length, *(f"{row}.jpg" for row in range(1, n))]
    skipped = [("y" * length, "no image"), *((f"{row}.png", "no image") for row in range(n))]
    listing, features = Listing(ids, {}), np.ones((n, 64), np.float32)
    tracemalloc.start()
    path = write_features(tmp_path / "f.h5", listing, {}, 64, np.float32, [features], skipped)
    store = FeatureStore(path)
    assert (store.ids(), store.skipped) == (ids, skipped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size < features.nbytes + 2 * length + 100_000
    assert peak < 20 * length


def test_only_packed_texts_have_another_schema(tmp_path: Path) -> None:
    schemas = {}
    for length in (1, 5000):
        listing = Listing(["x" * length, *(str(row) for row in range(99))], {})
        path = write_features(tmp_path / "f.h5", listing, {}, 1, "f4", [np.ones((100, 1))])
        schemas[length] = int(h5py.File(path).attrs["schema"])
    assert schemas == {1: 1, 5000: 2}


def test_the_packed_format_stays_readable() -> None:
    store = FeatureStore(GOLDEN.with_name("packed.h5"))
    assert store.ids() == ["ü" * 300, *(f"{row}.jpg" for row in range(1, 20))]
    assert store.skipped == [("é" * 300, "why"), *((f"{row}.png", "") for row in range(20))]
    assert store.fingerprint == "d5eb3b97b4b0800c207fb967010d135d"


def test_many_blocks_have_a_checksum_each(tmp_path: Path) -> None:
    n, d = 3001, 1024  # more than the bytes that one checksum stands for
    features = np.random.default_rng(1).standard_normal((n, d)).astype(np.float32)
    listing = Listing([str(row) for row in range(n)], {})
    path = write_features(tmp_path / "f.h5", listing, {}, d, np.float32, np.array_split(features, 7))
    np.testing.assert_array_equal(FeatureStore(path).features, features)
    entry = json.loads(h5py.File(path).attrs["checksums"])["features"]
    assert 20 < len(entry["xxh3"]) <= file_format.MOST_BLOCKS
    assert entry["rows"] * len(entry["xxh3"]) >= n
    row = 1500
    flip(path, h5py.File(path)["features"].id.get_offset() + row * d * 4 + 77)
    with pytest.raises(SdcError, match=r"damaged in /features, rows (\d+) to (\d+)") as caught:
        FeatureStore(path)
    first, last = (int(word) for word in str(caught.value).split("rows ")[1].split(":")[0].split(" to "))
    assert first <= row <= last < first + entry["rows"]


def test_any_hdf5_reader_can_read_it(tmp_path: Path) -> None:
    path = written(tmp_path / "feats.h5")
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["features"][:], small()[1])
        assert file["ids"].asstr()[:].tolist() == list(small()[0].ids)
        assert file["skipped"][0]["reason"] == b"image file is truncated"
        assert file["labels"][:].tolist() == [row % 3 for row in range(12)]
        assert {"schema", "provenance", "fingerprint", "checksums"} == set(file.attrs)
        for name in ("features", "ids", "labels", "splits/train", "skipped"):
            assert file[name].chunks is None
            assert file[name].compression is None
            assert file[name].id.get_offset() % 64 == 0


def test_the_fingerprint_covers_provenance_and_content(tmp_path: Path) -> None:
    listing, features = small()

    def made(provenance: dict[str, Any], rows: np.ndarray, listing: Listing = listing) -> str:
        path = write_features(tmp_path / "f.h5", listing, provenance, 4, np.float16, [rows])
        return FeatureStore(path).fingerprint

    other = features.copy()
    other[3, 2] += 1
    prints = [
        made({"seed": 0}, features), made({"seed": 1}, features), made({"seed": 0}, other),
        made({"seed": 0}, features, Listing(listing.ids, listing.splits)),
    ]  # fmt: skip
    assert len(set(prints)) == 4
    assert made({"seed": 0}, features) == prints[0]


def test_the_format_stays_readable() -> None:
    """A file of the first release. If this fails, old files of users fail: raise `layout.SCHEMA`, and convert."""
    store = FeatureStore(GOLDEN)
    assert content(store) == {
        "features": ("<f2", (5, 3), (np.arange(15).reshape(5, 3) / 8 - 1).astype("<f2").tobytes()),
        "ids": ["a.png", "b/ü.png", "c", "d", "日本.jpg"],
        "labels": ("<i4", [2, 0, 1, -1, 2]),
        "labels_coarse": [[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]],
        "splits": {"train": [0, 2, 4], "query": [1], "database": [0, 1, 2, 3, 4]},
        "skipped": [("e.jpg", "image file is truncated"), ("f.jpg", "")],
        "provenance": {
            "source": "extract", "backbone": "vgg16", "settings": {"seed": 0, "limit": None}, "version": "0.1.0",
        },
        "fingerprint": "ebf12853f04cc03dae5bc99febccff56",
    }  # fmt: skip


def test_the_golden_file_with_names_of_classes_reads(tmp_path: Path) -> None:
    store = FeatureStore(NAMED)
    assert store.labels is not None
    assert store.labels.tolist() == [10, -1, 2, 10]
    assert store.classes == {"labels": {2: "näktergal", 10: "T-shirt/top"}, "labels_coarse": {0: "a", 1: "b"}}
    assert store.fingerprint == "f8c693e7b5f4a4742420c2115e4e13d1"
    with h5py.File(NAMED) as file:
        assert json.loads(file["classes"].asstr()[0])["labels"] == {"2": "näktergal", "10": "T-shirt/top"}
    listing = Listing(store.ids(), store.splits, store.labels, store.labels_coarse, classes=store.classes)
    again = write_features(tmp_path / "again.h5", listing, store.provenance, 2, "<f2", [store.features])
    assert FeatureStore(again).fingerprint == store.fingerprint


def test_a_file_without_names_of_classes_has_none() -> None:
    assert FeatureStore(GOLDEN).classes == {}


def test_long_names_of_classes_cost_what_they_are_long(tmp_path: Path) -> None:
    names = {"labels": {0: "x" * 100_000, **{number: f"class {number}" for number in range(1, 300)}}}
    listing = Listing([f"{row}" for row in range(300)], {}, np.arange(300), classes=names)
    path = write_features(tmp_path / "f.h5", listing, {}, 2, np.float16, [np.zeros((300, 2))])
    assert path.stat().st_size < 200_000
    assert FeatureStore(path).classes == names


def flip(path: Path, byte: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def refused_or_equal(path: Path, whole: dict[str, Any]) -> bool:
    """Whether it is refused. Anything but a clean refusal or the very content is a failure."""
    message = ""
    try:
        assert content(FeatureStore(path)) == whole
    except SdcError as error:
        message = str(error)
    assert not message or (str(path) in message and "\n" not in message)
    return bool(message)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "feats.h5")
    good, whole = path.read_bytes(), content(FeatureStore(path))
    rng = random.Random(0)
    damaged = tmp_path / "damaged.h5"
    refused = 0
    for number in range(600):
        data = bytearray(good)
        if number % 4 == 0:
            del data[rng.randrange(len(data)) :]
        elif number % 4 == 1:
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif number % 4 == 2:
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(1, 600)] = b""
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        damaged.write_bytes(data)
        refused += refused_or_equal(damaged, whole)
    assert refused > 590


@pytest.mark.slow
def test_every_single_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "feats.h5")
    good, whole = path.read_bytes(), content(FeatureStore(path))
    with path.open("r+b", buffering=0) as file:  # in place: a new file for each of 80 000 would keep the disk busy
        for byte, value in enumerate(good):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([value ^ 1 << bit]), byte)
                assert refused_or_equal(path, whole), (byte, bit)
            os.pwrite(file.fileno(), bytes([value]), byte)


def test_without_verification_truncation_is_still_seen(tmp_path: Path) -> None:
    path = written(tmp_path / "feats.h5")
    good = path.read_bytes()
    offset = h5py.File(path)["features"].id.get_offset()
    path.write_bytes(good[: len(good) - 1])
    with pytest.raises(SdcError, match="is truncated, or was changed by other software"):
        FeatureStore(path, verify=False)
    path.write_bytes(good)
    flip(path, offset)
    assert FeatureStore(path, verify=False).features[0, 0] != small()[1][0, 0]
    with pytest.raises(SdcError, match="damaged in /features, rows 0 to 11"):
        FeatureStore(path)


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["embeddings"] = np.zeros((3, 4))


def newer(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_format, "SCHEMA", 7)
        written(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no feature store at .*make one with `sdc extract`"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("hello, I am no HDF5"), "is not an HDF5 file.*sdc import"),
        (foreign, "not a feature store .*it holds embeddings.*`sdc import .*x.h5`"),
        (newer, "schema 7, this sdc reads schema 1.*sdc import"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "x.h5"
    make(path)
    with pytest.raises(SdcError, match=message) as caught:
        FeatureStore(path)
    assert "\n" not in str(caught.value)


def test_a_store_may_be_replaced_while_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "feats.h5")
    store = FeatureStore(path)
    copy = pickle.dumps(store)
    assert len(copy) < 1000
    assert content(pickle.loads(copy)) == content(store)
    listing, features = small()
    write_features(path, listing, {"other": True}, 4, np.float16, [features + 1])
    np.testing.assert_array_equal(store.take(np.arange(12)), features)
    np.testing.assert_array_equal(FeatureStore(path).features, features + 1)
    with pytest.raises(SdcError, match="was replaced while in use"):
        pickle.loads(copy)


def test_a_lock_on_the_file_does_not_matter(tmp_path: Path) -> None:
    path = written(tmp_path / "feats.h5")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="lock"):
            h5py.File(path, "r")
        assert len(FeatureStore(path)) == 12


def test_features_are_read_only(tmp_path: Path) -> None:
    store = FeatureStore(written(tmp_path / "feats.h5"))
    assert isinstance(store.features, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.features[0, 0] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({3: np.nan}, r"1 of 12 rows .*\(row 3\)"),
        ({3: np.inf, 11: -np.inf}, r"2 of 12 rows .*\(row 3, 11\)"),
        (dict.fromkeys(range(2, 10), np.nan), r"8 of 12 rows .*\(row 2, 3, 4, 5, 6, \.\.\.\)"),
        ({7: 70000.0}, r"1 of 12 rows .*too large for float16 \(row 7\)"),
    ],
)
def test_bad_values_are_refused_by_row(tmp_path: Path, change: dict[int, float], message: str) -> None:
    listing, features = small()
    values = features.astype(np.float64)
    for row, value in change.items():
        values[row, row % 4] = value
    with pytest.raises(SdcError, match=message):
        write_features(tmp_path / "f.h5", listing, {}, 4, np.float16, [values[:5], values[5:]])
    assert not [*tmp_path.iterdir()]


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SdcError, match=r"0 rows.*all 1 were skipped; the first, a.jpg: broken"):
        write_features(tmp_path / "f.h5", Listing([], {}), {}, 4, np.float16, [], [("a.jpg", "broken")])


@pytest.mark.parametrize("rows", [11, 13])
def test_a_wrong_number_of_rows_leaves_nothing(tmp_path: Path, rows: int) -> None:
    with pytest.raises((ValueError, TypeError)):
        write_features(tmp_path / "f.h5", small()[0], {}, 4, np.float16, [np.zeros((rows, 4))])
    assert not [*tmp_path.iterdir()]


LARGE = 3 << 20  # bytes of features


def write_large(path: Path) -> Path:
    n = LARGE // 2048
    rows = (np.ones((64, 512), np.float32) for _ in range(n // 64))
    return write_features(path, Listing([str(row) for row in range(n)], {}), {}, 512, np.float32, rows)


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    path = written(small_disk / "feats.h5")
    with pytest.raises(SdcError, match=r"cannot write .*feats\.h5: the disk is full"):
        write_large(path)
    assert [file.name for file in small_disk.iterdir()] == ["feats.h5"]
    np.testing.assert_array_equal(FeatureStore(path).features, small()[1])


def test_a_disk_without_a_free_byte(small_disk: Path) -> None:
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(SdcError, match="the disk is full"):
        written(small_disk / "feats.h5")
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("size", [0, 100, 3000, 1 << 20, LARGE + 2048])
def test_a_limit_on_file_sizes(tmp_path: Path, limited: Any, size: int) -> None:
    message = limited(lambda: write_large(tmp_path / "feats.h5"), size)
    assert message.startswith("SdcError: cannot write")
    assert "ulimit" in message
    assert not [*tmp_path.iterdir()]


def test_no_permission(tmp_path: Path, unprivileged: Any) -> None:
    path = written(tmp_path / "feats.h5")
    for parent in [tmp_path, *tmp_path.parents[:2]]:
        parent.chmod(0o755)
    assert "no permission" in unprivileged(lambda: written(tmp_path / "new.h5"))
    path.chmod(0)
    message = unprivileged(lambda: FeatureStore(path))
    assert message == f"SdcError: cannot read {path}: no permission; get it, or name another file"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ids": ["a", "b", "a", "c"]}, "id 'a' is there twice .rows 0 and 2."),
        ({"ids": ["a", "b\0", "c", "d"]}, "row 1.* NUL"),
        ({"ids": ["a", "b", "c\udc80", "d"]}, "row 2.* not valid Unicode"),
        ({"labels": np.arange(3)}, r"labels: found shape \(3,\), expected \(4,\)"),
        ({"labels": np.empty((4, 0), int)}, r"labels: found shape \(4, 0\)"),
        ({"labels": np.ones(4)}, "labels: found float64, expected whole numbers"),
        ({"labels": np.array([0, 1, 2, 2**31])}, "labels: found values from 0 to 2147483648"),
        ({"labels_coarse": np.full((4, 2), 2)}, "coarse labels: found values from 2 to 2, expected 0 to 1"),
        ({"splits": {"train": np.array([0, 4])}}, "split train: row 4 is out of range, expected 0 to 3"),
        ({"splits": {"query": np.array([-1])}}, "split query: row -1 is out of range"),
        ({"splits": {"query": np.array([2, 1, 2])}}, "split query: row 2 is there twice"),
        ({"splits": {"query": np.array([0.5])}}, "split query: found float64"),
        ({"splits": {"quary": np.array([0])}}, "unknown split 'quary': did you mean 'query'"),
    ],
)
def test_a_listing_that_does_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SdcError, match=message):
        Listing(**{"ids": ["a", "b", "c", "d"], "splits": {}, **fields})


@given(st.integers(1, 60), st.data())
def test_a_selection_of_a_listing(n: int, data: st.DataObject) -> None:
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    listing = Listing([f"id{row}" for row in range(n)], default_splits(n, 3), np.arange(n), np.eye(n, dtype=int))
    chosen = listing.select(rows)
    assert list(chosen.ids) == [f"id{row}" for row in rows]
    assert chosen.labels is not None
    np.testing.assert_array_equal(chosen.labels, rows)
    for name in SPLITS:
        expected = [row for row in listing.splits[name].tolist() if row in rows]
        assert [chosen.ids[row] for row in chosen.splits[name]] == [f"id{row}" for row in expected]


@given(st.integers(1, 30000), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_default_splits(n: int, seed: int) -> None:
    splits = default_splits(n, seed)
    assert len(splits["query"]) == max(1, min(1000, n // 10))
    np.testing.assert_array_equal(splits["database"], np.arange(n))
    np.testing.assert_array_equal(np.union1d(splits["train"], splits["query"]), np.arange(n))
    assert len(splits["train"]) + len(splits["query"]) == n
    np.testing.assert_array_equal(splits["query"], default_splits(n, seed)["query"])


def test_bench_checks_what_it_times() -> None:
    small_run = ["--rows", "3000", "--dimension", "32", "--batch", "16", "--repeats", "1"]
    done = warm.run([BENCH, *small_run], capture_output=True, check=True)
    assert "random rows, take" in done.stdout
