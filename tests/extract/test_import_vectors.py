"""`sdc import`: any known kind of file becomes the same store, in little memory, or is refused with a reason."""

from __future__ import annotations

import logging
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from sdc.errors import SdcError, UsageError
from sdc.extract import ImportSettings, read_vectors
from sdc.extract import import_features as run
from sdc.extract.readers import table
from sdc.extract.store import FeatureStore, RowNumberIds, default_splits

arrow = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

N, D = 700, 24


def vectors(dtype: str = "float32", n: int = N) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((n, D)) * 20
    return np.abs(values).astype(dtype) if dtype == "uint8" else values.astype(dtype)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of some ten rows, so that each file is read in many."""
    monkeypatch.setattr(table, "BLOCK_BYTES", 1000)


def save_parquet(path: Path, columns: dict[str, Any]) -> None:
    parquet.write_table(arrow.table(columns), path, row_group_size=113)


def fixed_lists(values: np.ndarray) -> arrow.Array:
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel()), values.shape[1])


def save_vecs(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        for row in values:
            file.write(struct.pack("<i", len(row)) + row.tobytes())


def save_hdf5(path: Path, values: np.ndarray, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/vectors", data=values, **options)
        file["other"] = np.zeros((3, 3))


def save_bfloat16(path: Path, values: np.ndarray) -> None:
    safetensors.torch.save_file({"x": torch.from_numpy(values).bfloat16()}, path)


def save_feather(path: Path, values: np.ndarray) -> None:
    feather.write_feather(arrow.table({"e": fixed_lists(values)}), path, chunksize=113)


def save_stream(path: Path, values: np.ndarray) -> None:
    table = arrow.table({"e": values.tolist()}, schema=arrow.schema({"e": arrow.list_(arrow.float32())}))
    with arrow.ipc.new_stream(path, table.schema) as file:
        file.write_table(table, max_chunksize=113)


# name -> (file name, how it is written, dtype of the values)
FORMATS: dict[str, tuple[str, Callable[[Path, np.ndarray], Any], str]] = {
    "npy": ("v.npy", np.save, "float32"),
    "npy float16": ("v.npy", np.save, "float16"),
    "npy float64": ("v.npy", np.save, "float64"),
    "npy int8": ("v.npy", np.save, "int8"),
    "npy big endian": ("v.npy", np.save, ">f4"),
    "npy by columns": ("v.npy", lambda path, x: np.save(path, np.asfortranarray(x)), "float32"),
    "npz": ("v.npz", lambda path, x: np.savez(path, x=x), "float32"),
    "npz by columns": ("v.npz", lambda path, x: np.savez(path, x=np.asfortranarray(x)), "float16"),
    "npz compressed": ("v.npz", lambda path, x: np.savez_compressed(path, embeddings=x, y=x[:2]), "float16"),
    "safetensors": ("v.safetensors", lambda path, x: safetensors.numpy.save_file({"x": x}, path), "float16"),
    "safetensors bfloat16": ("v.safetensors", save_bfloat16, "float32"),
    "hdf5": ("v.hdf5", save_hdf5, "float32"),
    "hdf5 chunked": ("v.h5", lambda path, x: save_hdf5(path, x, chunks=(50, 7), compression="gzip"), "float16"),
    "parquet fixed lists": ("v.parquet", lambda path, x: save_parquet(path, {"e": fixed_lists(x)}), "float32"),
    "parquet lists": ("v.parquet", lambda path, x: save_parquet(path, {"e": x.tolist(), "f": [1] * len(x)}), "float64"),
    "feather": (
        "v.feather",
        lambda path, x: feather.write_feather(arrow.table({"e": fixed_lists(x)}), path),
        "float16",
    ),
    "arrow stream": ("v.arrow", save_stream, "float32"),
    "fvecs": ("v.fvecs", save_vecs, "float32"),
    "bvecs": ("v.bvecs", save_vecs, "uint8"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_the_same_store(tmp_path: Path, name: str) -> None:
    file, save, dtype = FORMATS[name]
    values = vectors(dtype)
    save(tmp_path / file, values)
    store = FeatureStore(run(ImportSettings(tmp_path / file, out=tmp_path / "feats.h5")))
    if "bfloat16" in name:
        values = torch.from_numpy(values).bfloat16().float().numpy()
    kind = "float16" if dtype == "float16" else "float32"
    np.testing.assert_array_equal(store.features, values.astype(kind))
    assert store.features.dtype == kind
    assert store.ids() == [str(row) for row in range(N)]
    assert store.labels is None
    for split, rows in default_splits(N, 0).items():
        np.testing.assert_array_equal(store.splits[split], rows)
    loaded, ids = read_vectors(tmp_path / file)
    np.testing.assert_array_equal(loaded.astype(kind), store.features)
    assert ids == store.ids()


def imported(folder: Path, **settings: Any) -> FeatureStore:
    np.save(folder / "v.npy", vectors())
    return FeatureStore(run(ImportSettings(folder / "v.npy", out=folder / "feats.h5", **settings)))


def test_what_comes_with_the_vectors(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 9, N)
    (tmp_path / "labels.txt").write_text("\n".join(map(str, labels)) + "\n")
    (tmp_path / "ids.txt").write_text("".join(f"bild {row} ü\r\n" for row in range(N)), encoding="utf-8", newline="")
    np.savez(tmp_path / "splits.npz", query=[3, 1], train=np.arange(10, 700), database=np.arange(700, dtype=np.uint16))
    store = imported(
        tmp_path,
        labels=tmp_path / "labels.txt",
        ids=tmp_path / "ids.txt",
        splits=tmp_path / "splits.npz",
        dtype="float16",
    )
    assert store.features.dtype == np.float16
    np.testing.assert_array_equal(store.labels, labels)
    assert store.ids() == [f"bild {row} ü" for row in range(N)]
    assert store.splits["query"].tolist() == [1, 3]
    assert store.splits["train"].tolist() == list(range(10, 700))
    assert len(store.splits["database"]) == 700


CLASSES = np.array(["zebra", "ape", "näktergal"])
KINDS = np.random.default_rng(2).integers(0, 3, N)
HOT = np.eye(5, dtype=np.int64)[KINDS] | np.eye(5, dtype=np.int64)[KINDS + 1]


@pytest.mark.parametrize(
    ("file", "save", "expected"),
    [
        ("l.txt", lambda path: path.write_text("\n".join(CLASSES[KINDS])), np.array([2, 0, 1])[KINDS]),
        ("l.npy", lambda path: np.save(path, CLASSES[KINDS]), np.array([2, 0, 1])[KINDS]),
        ("l.npy", lambda path: np.save(path, np.char.encode(CLASSES[KINDS], "utf-8")), np.array([2, 0, 1])[KINDS]),
        ("l.npy", lambda path: np.save(path, KINDS.astype(np.uint8)), KINDS),
        ("l.npy", lambda path: np.save(path, KINDS.astype(np.float64)[:, None] - 1), KINDS - 1),
        ("l.npy", lambda path: np.save(path, HOT), HOT),
        ("l.npy", lambda path: np.save(path, HOT.astype(bool)), HOT),
        ("l.parquet", lambda path: save_parquet(path, {"label": KINDS, "other": KINDS + 1}), KINDS),
        ("l.parquet", lambda path: save_parquet(path, {"kind": CLASSES[KINDS]}), np.array([2, 0, 1])[KINDS]),
        ("l.parquet", lambda path: save_parquet(path, {"labels": fixed_lists(HOT)}), HOT),
    ],
)
def test_labels_of_any_kind(tmp_path: Path, file: str, save: Callable[[Path], Any], expected: np.ndarray) -> None:
    save(tmp_path / file)
    store = imported(tmp_path, labels=tmp_path / file)
    np.testing.assert_array_equal(store.labels, expected)
    assert store.labels is not None
    assert store.labels.dtype == (np.int32 if expected.ndim == 1 else np.uint8)
    assert store.provenance["protocol"] == {"name": "category", "at": 1000}


def test_arrays_beside_the_vectors_are_used_if_they_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "v.npz", features=vectors(), labels=KINDS, ids=np.arange(N) + 1000, other=vectors())
    store = FeatureStore(run(ImportSettings(tmp_path / "v.npz", out=tmp_path / "a.h5")))
    np.testing.assert_array_equal(store.labels, KINDS)
    assert store.ids()[:2] == ["1000", "1001"]
    save_parquet(
        tmp_path / "v.parquet", {"e": fixed_lists(vectors()), "ids": CLASSES[KINDS] + [f"-{i}" for i in range(N)]}
    )
    assert (
        FeatureStore(run(ImportSettings(tmp_path / "v.parquet", out=tmp_path / "b.h5"))).ids()[0]
        == CLASSES[KINDS[0]] + "-0"
    )
    np.savez(tmp_path / "w.npz", features=vectors(), labels=KINDS[:-1])
    with caplog.at_level(logging.WARNING):
        assert FeatureStore(run(ImportSettings(tmp_path / "w.npz", out=tmp_path / "c.h5"))).labels is None
    assert "labels beside the vectors is not used: found 699, expected 700" in caplog.text


@pytest.mark.parametrize("coarse", [KINDS // 2, np.array(["low", "high"])[KINDS // 2], HOT], ids=["int", "text", "hot"])
def test_coarse_labels(tmp_path: Path, coarse: np.ndarray) -> None:
    np.savez(tmp_path / "both.npz", labels=KINDS, labels_coarse=coarse)
    both = tmp_path / "both.npz"
    store = imported(tmp_path, labels=both, labels_coarse=both)
    expected = 1 - KINDS // 2 if coarse.dtype.kind == "U" else coarse
    np.testing.assert_array_equal(store.labels, KINDS)
    np.testing.assert_array_equal(store.labels_coarse, expected)
    assert store.provenance["settings"]["labels_coarse"]["name"] == "both.npz"
    with pytest.raises(UsageError, match=r"settings.labels_coarse: found .*both.*, wanted null"):
        imported(tmp_path, labels=both)
    with pytest.raises(UsageError, match="a level above labels, and there are none"):
        imported(tmp_path, labels_coarse=both)
    np.savez(tmp_path / "v.npz", features=vectors(), labels=KINDS, labels_coarse=coarse)
    beside = FeatureStore(run(ImportSettings(tmp_path / "v.npz", out=tmp_path / "beside.h5")))
    np.testing.assert_array_equal(beside.labels_coarse, expected)


def test_a_store_of_ours_can_be_imported(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", KINDS)
    np.save(tmp_path / "coarse.npy", KINDS // 2)
    store = imported(tmp_path, labels=tmp_path / "labels.npy", labels_coarse=tmp_path / "coarse.npy")
    copy = FeatureStore(run(ImportSettings(store.path, out=tmp_path / "copy.h5")))
    np.testing.assert_array_equal(copy.features, store.features)
    np.testing.assert_array_equal(copy.labels, KINDS)
    np.testing.assert_array_equal(copy.labels_coarse, KINDS // 2)
    assert copy.ids() == store.ids()


def test_importing_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = imported(tmp_path)
    settings = ImportSettings(tmp_path / "v.npy", out=store.path)
    before = store.path.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        run(settings)
    assert "nothing to do" in caplog.text
    assert store.path.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"settings.seed: found 0, wanted 1.*--overwrite"):
        run(replace(settings, seed=1))
    with pytest.raises(UsageError, match=r"settings.dtype: found null, wanted .float16"):
        run(replace(settings, dtype="float16"))
    assert FeatureStore(run(replace(settings, dtype="float16", overwrite=True))).features.dtype == np.float16
    np.save(tmp_path / "v.npy", vectors(n=N + 1))
    with pytest.raises(UsageError, match=r"settings.vectors.bytes: found \d+, wanted \d+"):
        run(replace(settings, dtype="float16"))


def test_provenance_says_where_it_came_from(tmp_path: Path) -> None:
    provenance = imported(tmp_path).provenance
    state = (tmp_path / "v.npy").stat()
    assert provenance["source"] == "import"
    assert provenance["settings"] == {
        "vectors": {"name": "v.npy", "bytes": state.st_size, "mtime_ns": state.st_mtime_ns},
        "labels": None, "ids": None, "splits": None, "dtype": None, "seed": 0,
    }  # fmt: skip


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


def cut(path: Path, save: Callable[[Path, np.ndarray], Any], keep: float) -> None:
    save(path, vectors())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def flipped(path: Path, save: Callable[[Path, np.ndarray], Any]) -> None:
    save(path, vectors())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def with_bad_rows(path: Path) -> None:
    values = vectors()
    values[[17, 300, 301], 5] = np.nan, np.inf, -np.inf
    np.save(path, values)


def ragged(path: Path) -> None:
    save_parquet(path, {"e": [[1.0, 2.0], [3.0, 4.0], [5.0]]})


def odd_vecs(path: Path) -> None:
    path.write_bytes(struct.pack("<iffiff", 2, 0, 0, 3, 0, 0))


@pytest.mark.parametrize(
    ("file", "save", "kind", "message"),
    [
        ("v.npy", lambda path: None, SdcError, "no file of vectors at"),
        (
            "v.csv",
            lambda path: path.write_text("1,2"),
            UsageError,
            r"unknown kind of file '.csv', expected one of .npy, .npz",
        ),
        ("v.pkl", lambda path: path.write_bytes(pickle.dumps([1])), UsageError, "pickled files are never loaded"),
        ("v.npy", pickled, SdcError, "Python objects, which are never unpickled"),
        (
            "v.npy",
            lambda path: np.save(path, np.zeros(5)),
            UsageError,
            r"found array \(5,\) float64; expected one two-dim",
        ),
        ("v.npy", lambda path: np.save(path, np.float32(5)), SdcError, "a single value"),
        (
            "v.npy",
            lambda path: np.save(path, np.zeros((2, 3, 4))),
            UsageError,
            r"\(2, 3, 4\) float64; expected one two-dim",
        ),
        ("v.npy", lambda path: np.save(path, np.zeros((2, 3), complex)), UsageError, "complex128; expected"),
        ("v.npy", lambda path: np.save(path, np.zeros((0, 3))), SdcError, r"holds no values: found array \(0, 3\)"),
        ("v.npy", lambda path: np.save(path, np.zeros((3, 0))), SdcError, r"holds no values: found array \(3, 0\)"),
        ("v.npy", lambda path: np.save(path, np.full((3, 2), 1e300)), SdcError, "3 of 3 rows .*too large for float32"),
        ("v.npy", with_bad_rows, SdcError, r"3 of 700 rows hold NaN, .*\(row 17, 300, 301\)"),
        ("v.npy", lambda path: cut(path, np.save, 0.5), SdcError, "truncated, found 349 rows, expected 700"),
        ("v.npy", lambda path: path.write_text("hello"), SdcError, "cannot read .*v.npy"),
        ("v.npz", lambda path: path.write_text("hello"), SdcError, "cannot read .*not a zip file"),
        (
            "v.npz",
            lambda path: np.savez(path, a=np.zeros((2, 2)), b=np.zeros((3, 3))),
            UsageError,
            "found a .*; b .*; expected",
        ),
        ("v.npz", lambda path: flipped(path, np.savez), SdcError, "cannot read .*Bad CRC-32"),
        ("v.npz", lambda path: flipped(path, np.savez_compressed), SdcError, "cannot read"),
        ("v.safetensors", lambda path: path.write_text("hello"), SdcError, "cannot read"),
        (
            "v.safetensors",
            lambda path: path.write_text("hello, hello, hello"),
            SdcError,
            "a header of \\d+ bytes in a file",
        ),
        ("v.safetensors", lambda path: cut(path, FORMATS["safetensors"][1], 0.9), SdcError, "x ends at byte"),
        ("v.h5", lambda path: cut(path, save_hdf5, 0.5), SdcError, "cannot read .*truncated file"),
        ("v.parquet", lambda path: cut(path, FORMATS["parquet lists"][1], 0.5), SdcError, "cannot read"),
        ("v.parquet", ragged, SdcError, "column e holds 1 values in row 2 and 2 in row 0"),
        (
            "v.parquet",
            lambda path: save_parquet(path, {"e": [[1.0], None]}),
            SdcError,
            "column e has no value in row 1",
        ),
        ("v.fvecs", lambda path: cut(path, save_vecs, 0.515), SdcError, "no whole number of rows of 24 values"),
        ("v.fvecs", odd_vecs, SdcError, "row 1 does not start with its length 2"),
        ("v.fvecs", lambda path: path.touch(), SdcError, "cannot read"),
    ],
)
def test_bad_vectors(tmp_path: Path, file: str, save: Any, kind: type[SdcError], message: str) -> None:
    save(tmp_path / file)
    with pytest.raises(kind, match=message) as caught:
        run(ImportSettings(tmp_path / file, out=tmp_path / "feats.h5"))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name != file]


@pytest.mark.parametrize(
    ("option", "file", "save", "message"),
    [
        ("labels", "l.npy", lambda path: None, "no file of labels at"),
        ("labels", "l.npy", lambda path: np.save(path, KINDS[:-1]), r"l.npy: found 699 labels, expected 700"),
        ("labels", "l.txt", lambda path: path.write_text("1\n\n2\n"), "line 2 is empty"),
        ("labels", "l.txt", lambda path: path.write_bytes(b"\xff\xff"), "is no UTF-8 text"),
        ("labels", "l.npy", lambda path: np.save(path, KINDS + 0.5), "labels: found float64, expected whole numbers"),
        ("labels", "l.npy", lambda path: np.save(path, HOT * 3), "labels: found values from 0 to 3, expected 0 to 1"),
        ("labels", "l.npy", lambda path: np.save(path, HOT[:, :0]), r"labels: found shape .700, 0."),
        ("labels", "l.npz", lambda path: np.savez(path, a=KINDS, b=KINDS), "expected a single array, or one called"),
        ("labels", "l.npy", pickled, "never unpickled"),
        ("ids", "i.txt", lambda path: path.write_text("a\n" * N), "id 'a' is there twice .rows 0 and 1."),
        ("ids", "i.txt", lambda path: path.write_text("a\nb\n"), "i.txt: found 2 ids, expected 700"),
        ("ids", "i.npy", lambda path: np.save(path, vectors()), r"found float32 of shape \(700, 24\), expected text"),
        ("splits", "s.npz", lambda path: np.savez(path, query=[1, 700]), "split query: row 700 is out of range"),
        ("splits", "s.npz", lambda path: np.savez(path, query=[1, 1]), "split query: row 1 is there twice"),
        ("splits", "s.npz", lambda path: np.savez(path, test=[1, 1]), "unknown split 'test'"),
        ("splits", "s.npy", lambda path: np.save(path, [1, 2]), "no npz file, expected one with row numbers train"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_vectors(tmp_path: Path, option: str, file: str, save: Any, message: str) -> None:
    save(tmp_path / file)
    with pytest.raises(SdcError, match=message) as caught:
        imported(tmp_path, **{option: tmp_path / file})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "feats.h5").exists()


def test_other_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown dtype 'float15': did you mean 'float16'"):
        imported(tmp_path, dtype="float15")
    with pytest.raises(UsageError, match="is the file of vectors itself"):
        run(ImportSettings(tmp_path / "v.npy", out=tmp_path / "v.npy"))
    with pytest.raises(SdcError, match=r"folder .*nowhere does not exist"):
        run(ImportSettings(tmp_path / "v.npy", out=tmp_path / "nowhere" / "feats.h5"))
    values = vectors()
    values[4] = 70000
    np.save(tmp_path / "v.npy", values)
    with pytest.raises(SdcError, match=r"1 of 700 rows .*too large for float16 .row 4."):
        run(ImportSettings(tmp_path / "v.npy", dtype="float16", out=tmp_path / "feats.h5"))


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, small_disk: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((20000, D), np.float32))
    with pytest.raises(SdcError, match=r"cannot write .*feats\.h5: the disk is full"):
        run(ImportSettings(tmp_path / "v.npy", out=small_disk / "feats.h5"))
    assert not [*small_disk.iterdir()]


def test_row_numbers_are_a_list_of_their_names() -> None:
    rows, names = RowNumberIds(20), [str(row) for row in range(20)]
    assert list(rows) == names
    assert rows[3:17:2] == names[3:17:2]
    assert rows[-1] == "19"
    with pytest.raises(IndexError):
        rows[20]


# Reports the most memory of its own (not of mapped files) that an import had in use beyond what its modules take.
IMPORT = """
import sys, threading, time
import h5py, pyarrow.parquet
from pathlib import Path
from sdc.extract import ImportSettings
from sdc.extract import import_features as run

def own():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) * 1024

def watch():
    global most
    while True:
        most = max(most, own())
        time.sleep(0.002)

before = most = own()
threading.Thread(target=watch, daemon=True).start()
run(ImportSettings(Path(sys.argv[1]), out=Path(sys.argv[2])))
print(max(most, own()) - before)
"""


def memory_of_import(source: Path, out: Path) -> int:
    done = subprocess.run([sys.executable, "-c", IMPORT, source, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder for large files; in memory where there is room, to spare the disk."""
    memory = Path("/dev/shm")
    fits = memory.is_dir() and shutil.disk_usage(memory).free > 3e9
    with tempfile.TemporaryDirectory(dir=memory if fits else tmp_path) as name:
        yield Path(name)


def test_a_large_file_takes_little_memory(roomy: Path) -> None:
    block = np.random.default_rng(0).standard_normal((75_000, 512), dtype=np.float32)  # 154 MB
    with (roomy / "v.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (300_000, 512)})
        for _ in range(4):
            block.tofile(file)
    assert (roomy / "v.npy").stat().st_size > 600e6
    assert memory_of_import(roomy / "v.npy", roomy / "feats.h5") < 100e6
    store = FeatureStore(roomy / "feats.h5")
    for start in range(0, 300_000, 75_000):
        np.testing.assert_array_equal(store.features[start : start + 75_000], block)


LARGE: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "v.npz": lambda path, x: np.savez(path, x=x),
    "compressed.npz": lambda path, x: np.savez_compressed(path, x=x),
    "v.safetensors": lambda path, x: safetensors.numpy.save_file({"x": x}, path),
    "v.h5": lambda path, x: save_hdf5(path, x, chunks=(1000, 64)),
    "v.parquet": lambda path, x: parquet.write_table(arrow.table({"e": fixed_lists(x)}), path),  # one row group
    "v.fvecs": lambda path, x: np.hstack([np.full((len(x), 1), x.shape[1], np.int32).view(np.float32), x]).tofile(path),
}


@pytest.mark.parametrize("file", LARGE)
def test_other_large_files_take_little_memory(roomy: Path, file: str) -> None:
    values = np.zeros((200_000, 256), np.float32)  # 205 MB
    values[:, ::16] = np.arange(200_000)[:, None] % 20_000
    LARGE[file](roomy / file, values)
    assert memory_of_import(roomy / file, roomy / "feats.h5") < 130e6
    np.testing.assert_array_equal(FeatureStore(roomy / "feats.h5").features, values)


@pytest.mark.slow
def test_ten_gigabytes_in_less_than_one(tmp_path: Path) -> None:
    n, d = 10_000_000, 512
    if shutil.disk_usage(tmp_path).free < 15e9:
        pytest.skip("needs 15 GB of disk")
    with (tmp_path / "v.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (n, d)})
        file.truncate(file.tell() + n * d * 2)  # zeros that take no disk
    assert memory_of_import(tmp_path / "v.npy", tmp_path / "feats.h5") < 1e9
    store = FeatureStore(tmp_path / "feats.h5", verify=False)
    assert store.features.shape == (n, d)
    assert store.ids(np.array([n - 1])) == [str(n - 1)]
    (tmp_path / "feats.h5").unlink()
