"""What people bring as labels and ids: the same labels, names and ids, whatever they are written in."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.extract import ImportSettings, import_features
from sdc.extract.datasets import load_dataset
from sdc.extract.labels import as_labels, say_classes
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.index import Index
from sdc.retrieve.update.changes import add
from sdc.retrieve.update.settings import AddSettings
from sdc.text import natural_key
from sdc.train.model import Model

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

N = 600
Y = np.arange(N) % 12
HOT = np.maximum(np.eye(12, dtype=int)[Y], np.eye(12, dtype=int)[np.random.default_rng(1).integers(0, 12, N)])


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., FeatureStore]:
    """Imports N vectors with labels, or ids, that are given as a file or as its text."""

    def make(name: str, content: bytes | str | Callable[[Path], Any], option: str = "labels") -> FeatureStore:
        np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((N, 4)).astype(np.float32))
        path = tmp_path / name
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        files: dict[str, Any] = {option: path}
        return FeatureStore(import_features(ImportSettings(tmp_path / "v.npy", out=tmp_path / "f.h5", **files)))

    return make


def lines(values: Any) -> str:
    return "".join(f"{value}\n" for value in values)


@pytest.mark.parametrize(
    "text",
    [
        codecs.BOM_UTF8 + lines(Y).encode(),
        lines(Y).encode("utf-16"),
        lines(Y).replace("\n", "\r\n").encode(),
        lines(Y).replace("\n", "\r").encode(),
        lines(f" {label}\t" for label in Y).encode(),
        (lines(Y) + "\n\n").encode(),
        lines(f"{label:.18e}" for label in Y).encode(),
        lines(f"{label}.0" for label in Y).encode(),
        lines(f"{label:02}" for label in Y).encode(),
    ],
    ids=["byte order mark", "UTF-16", "CR LF", "CR", "blanks", "blank end", "savetxt", "floats", "leading zeros"],
)
def test_numbers_in_text_are_those_numbers(imported: Any, text: bytes) -> None:
    store = imported("y.txt", text)
    np.testing.assert_array_equal(store.labels, Y)
    assert store.classes == {}


@pytest.mark.parametrize(
    "save",
    [
        lambda path: np.savetxt(path, HOT, fmt="%d"),
        lambda path: np.savetxt(path, HOT),
        lambda path: np.savetxt(path, HOT, fmt="%d", delimiter=","),
        lambda path: np.savetxt(path, HOT, fmt="%.1f", delimiter="; "),
        lambda path: path.write_text(lines(HOT.tolist())),
        lambda path: path.write_text(lines("\t".join(map(str, row)) + "\t" for row in HOT)),
    ],
    ids=["blanks", "savetxt", "commas", "semicolons", "lists", "tabs"],
)
def test_lines_of_zeros_and_ones_are_several_labels(imported: Any, save: Callable[[Path], Any]) -> None:
    np.testing.assert_array_equal(imported("m.txt", save).labels, HOT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("y.npy", np.where(Y == 3, np.nan, Y), r"y.npy, labels: NaN in 50 rows \(3, 15, 27, 39, 51, …\), expected"),
        ("y.npy", np.where(Y == 3, np.inf, Y), r"infinite values in 50 rows \(3, "),
        ("y.npy", Y + 0.5, r"labels: found float64, expected whole numbers .* row 0 holds 0.5"),
        ("y.txt", lines(np.where(Y == 3, "nan", Y)), r"labels: NaN in 50 rows \(3, 15"),
        ("y.txt", lines(Y + 0.5), "labels: found float64, expected whole numbers"),
        ("y.txt", lines(f"{row},{row}" for row in range(N)), "found '2,2' in row 2, .* Leave the first column out"),
        ("y.txt", lines(f"{row} 7" for row in range(N)), r"found '0 7' in row 0, expected one label, or a zero or one"),
        ("y.txt", lines(["0 1", "1 0 0"] * 300), "3 numbers in row 1 and 2 in row 0"),
        ("y.txt", lines(["cat", " "] * 300), "y.txt: line 2 is empty, expected one entry a line"),
        ("y.txt", "label\n" + lines(Y), r"found 601 labels, expected 600, .*\('label' in its first line, is that a"),
        ("y.npy", np.array(["cat", ""] * 300), "row 1 is empty, expected a class; -1 stands for no label"),
        ("y.npy", Y + 2**40, "labels: found values from"),
        ("y.txt", lines(Y + 2**40), "labels: found values from"),
        ("y.csv", lines(Y), "unknown kind of file '.csv', expected .txt with one of the labels a line"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_refused_in_one_line(imported: Any, name: str, content: Any, message: str) -> None:
    save = content if isinstance(content, str) else lambda path: np.save(path, content)
    with pytest.raises(SdcError, match=message) as caught:
        imported(name, save)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_looks_like_no_classes_is_warned_about(imported: Any, caplog: pytest.LogCaptureFixture) -> None:
    for number, (text, message) in enumerate({
        lines(f"{row},x" for row in range(N)): "each of the 600 rows has a class of its own",
        lines(f"a {row // 3}" if row < 90 else f"b {row}" for row in range(N)): "510 of 600 rows are alone in their",
        lines(["cat"] * N): "all 600 rows are of one class",
        lines(["train"] * 400 + ["Val"] * 200): "the classes are called Val, train, which are names of splits",
    }.items()):  # fmt: skip
        imported(f"y{number}.txt", text).path.unlink()
        assert message in caplog.text
    caplog.clear()
    imported("y.txt", lines(Y))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_classes_are_told_with_how_many_they_have(imported: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        store = imported("y.txt", lines(["eel", "cat", "-1"] * 200))
    assert "labels: 2 classes: cat (200), eel (200); 200 of 600 rows have none" in caplog.text
    assert store.classes == {"labels": {0: "cat", 1: "eel"}}
    assert store.labels[:3].tolist() == [1, 0, -1]
    with caplog.at_level(logging.INFO):
        say_classes(Listing(["a", "b", "c"], {}, np.array([7, -1, 3])))
    assert "labels: 2 classes: 3 (1), 7 (1); 1 of 3 rows have none" in caplog.text


def test_labels_of_which_none_is_one_are_left_out(imported: Any, caplog: pytest.LogCaptureFixture) -> None:
    store = imported("y.npy", lambda path: np.save(path, np.full(N, -1)))
    assert store.labels is None
    assert "labels: none of the 600 rows has a label, so they are left out" in caplog.text


def test_ids_are_kept_as_they_are(imported: Any) -> None:
    ids = [f" id {row}\u2028 ü" for row in range(N)]
    assert imported("i.txt", codecs.BOM_UTF8 + lines(ids).encode(), "ids").ids() == ids


@pytest.mark.parametrize(
    "save",
    [
        lambda path: np.savetxt(path.with_suffix(".txt"), np.arange(N) * 3),
        lambda path: np.save(path, np.arange(N) * 3.0),
    ],
)
def test_ids_may_be_whole_numbers_in_floats(imported: Any, tmp_path: Path, save: Callable[[Path], Any]) -> None:
    save(tmp_path / "i.npy")
    (path,) = [path for path in tmp_path.iterdir() if path.stem == "i"]
    assert imported(path.name, path.read_bytes(), "ids").ids() == [str(3 * row) for row in range(N)]


def folders(root: Path, *names: str) -> Path:
    """A folder with one empty image in each of these folders: it is listed, not opened."""
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_bytes(b"")
    return root


def test_folders_with_whole_numbers_for_names_keep_these(tmp_path: Path) -> None:
    listing = load_dataset("folder", folders(tmp_path, "1", "2", "10")).listing
    assert dict(zip(listing.ids, listing.labels.tolist(), strict=True)) == {"1/0.png": 1, "10/0.png": 10, "2/0.png": 2}
    assert listing.classes == {"labels": {1: "1", 2: "2", 10: "10"}}


def test_other_folders_are_numbered_in_natural_order(tmp_path: Path) -> None:
    listing = load_dataset("folder", folders(tmp_path, "img10", "img2", "Zoo", "1")).listing
    assert listing.classes == {"labels": {0: "1", 1: "Zoo", 2: "img2", 3: "img10"}}
    assert listing.labels.tolist() == [0, 1, 3, 2]  # of 1, Zoo, img10, img2


def test_folders_of_splits_above_the_classes_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    say_classes(load_dataset("folder", folders(tmp_path, "train/cat", "train/dog", "val/cat")).listing)
    assert "the classes are called train, val, which are names of splits: are the classes a level below?" in caplog.text


def test_photos_of_some_of_the_folders_are_added_to_their_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {"output.weight": rng.standard_normal((16, 8)), "output.bias": np.zeros(16)}
    Model(tensors, {"method": "lsh", "settings": {"bits": 16}, "features": {"fingerprint": "x"}}).save(tmp_path / "m")
    stores = {}
    for root, names in (("photos", ("cat", "dog", "eel")), ("new", ("dog/b", "fox"))):
        listing = load_dataset("folder", folders(tmp_path / root, *names)).listing
        features = rng.standard_normal((len(listing.ids), 8)).astype(np.float32)
        provenance = {"source": "extract", "dataset": "folder"}
        stores[root] = write_features(tmp_path / f"{root}.h5", listing, provenance, 8, np.float32, [features])
    db = run(EncodeSettings(stores["photos"], tmp_path / "m", out=tmp_path / "db.bin"))
    assert add(AddSettings(db, stores["new"]))["new_classes"] == {"labels": {"3": "fox"}}
    database = Index.open(db).database
    found = dict(zip(database.names(), database.labels.tolist(), strict=True))
    assert found == {"cat/0.png": 0, "dog/0.png": 1, "eel/0.png": 2, "dog/b/0.png": 1, "fox/0.png": 3}


def save_parquet(path: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)


def save_hdf5(path: Path, columns: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = np.array(values, object) if isinstance(values[0], str) else np.array(values)


CONTAINERS: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    "c.npz": lambda path, columns: np.savez(path, **{name: np.array(values) for name, values in columns.items()}),
    "c.parquet": save_parquet,
    "c.h5": save_hdf5,
}
letters = st.text("abXYZäß日 ,-_.", min_size=1, max_size=9).map(str.strip).filter(bool)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    ids = draw(st.lists(letters, min_size=2, max_size=12, unique=True))
    n = len(ids)
    width = draw(st.integers(2, 4))
    labels = draw(
        st.lists(st.integers(-1, 300), min_size=n, max_size=n)
        | st.lists(letters, min_size=n, max_size=n)
        | st.lists(st.lists(st.integers(0, 1), min_size=width, max_size=width), min_size=n, max_size=n)
    )
    return {"ids": ids, "labels": labels}


def as_text(values: list[Any]) -> str:
    return lines(" ".join(map(str, value)) if isinstance(value, list) else value for value in values)


@settings(max_examples=25)
@given(tables(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_every_container_brings_the_same_ids_labels_and_names(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any], encoding: str
) -> None:
    folder = tmp_path_factory.mktemp("table")
    labels = table["labels"]
    names = sorted(set(labels), key=natural_key) if isinstance(labels[0], str) else []
    expected = [names.index(label) for label in labels] if names else labels
    nothing = expected == [-1] * len(expected)
    np.save(folder / "v.npy", np.random.default_rng(0).standard_normal((len(labels), 3)))
    for name in ("ids", "labels"):
        (folder / f"{name}.txt").write_bytes(as_text(table[name]).encode(encoding))
    files = [(folder / "ids.txt", folder / "labels.txt")]
    for name, save in CONTAINERS.items():
        save(folder / name, table)
        files.append((folder / name, folder / name))
    for ids, given_labels in files:
        request = ImportSettings(folder / "v.npy", ids=ids, labels=given_labels, out=folder / "f.h5", overwrite=True)
        store = FeatureStore(import_features(request))
        assert store.ids() == table["ids"]
        assert (None if store.labels is None else store.labels.tolist()) == (None if nothing else expected)
        assert store.classes == ({"labels": dict(enumerate(names))} if names else {})
        again = ImportSettings(store.path, out=folder / "again.h5", overwrite=True)
        copy = FeatureStore(import_features(again))
        assert (copy.ids(), copy.classes) == (store.ids(), store.classes)
        np.testing.assert_array_equal(copy.labels, store.labels)


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9),
    st.sampled_from(["{}", "{:.18e}", "{}.0", " {}\t", "{:+}"]),
    st.sampled_from([np.object_, np.str_, np.bytes_]),
)
def test_whole_numbers_are_read_however_they_are_written(numbers: list[int], form: str, kind: Any) -> None:
    texts = np.array([form.format(number) for number in numbers], kind)
    found = as_labels(texts, "labels")
    assert found.values.tolist() == numbers
    assert found.names == {}


@given(st.lists(letters, min_size=1, max_size=20))
def test_names_are_numbered_in_natural_order(names: list[str]) -> None:
    found = as_labels(np.array(names, object), "labels")
    assert [found.names[number] for number in found.values.tolist()] == names
    assert list(found.names.values()) == sorted(set(names), key=natural_key)
    assert list(found.names) == list(range(len(set(names))))


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_value_is_named(missing: Any) -> None:
    with pytest.raises(SdcError, match=r"labels: no value in 1 row \(2\), expected one in each"):
        as_labels(np.array(["cat", "dog", missing], object), "labels")


def test_names_beside_numbers_are_theirs(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((4, 3))
    np.savez(tmp_path / "v.npz", features=vectors, labels=[2, 0, -1, 2], classes=np.array(["cat", "dog", "eel"]))
    store = FeatureStore(import_features(ImportSettings(tmp_path / "v.npz", out=tmp_path / "f.h5")))
    assert store.labels.tolist() == [2, 0, -1, 2]
    assert store.classes == {"labels": {0: "cat", 1: "dog", 2: "eel"}}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"labels": {0: "cat"}}, "labels: class 1 has no name, but 1 classes have: name all or none"),
        ({"labels": {0: "cat", 1: "cat"}}, "labels: classes 0 and 1 are both called 'cat': rename one of them"),
        ({"labels": {0: "cat", 1: ""}}, "labels: the name '' of class 1 is no text"),
    ],
)
def test_names_that_do_not_fit_are_refused(classes: Any, message: str) -> None:
    with pytest.raises(SdcError, match=message):
        Listing(["a", "b"], {}, np.array([0, 1]), classes=classes)


def test_split_files_are_read_in_any_unicode_encoding(tmp_path: Path) -> None:
    root = folders(tmp_path / "root", "cat", "dog")
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "s.txt").write_bytes("cat/0.png query\r\ndog/0.png database\r\n".encode(encoding))
        listing = load_dataset("folder", root, str(tmp_path / "s.txt")).listing
        assert {name: rows.tolist() for name, rows in listing.splits.items()} == {
            "train": [], "query": [0], "database": [1],
        }  # fmt: skip
    with pytest.raises(UsageError, match="no such file, and no ratio"):
        load_dataset("folder", root, str(tmp_path / "none.txt"))
