"""The sets of the category tables, as replicas of real images: each from its files to its scores, and bad files."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sdc.cli import cli
from sdc.errors import SdcError, UsageError
from sdc.extract import datasets
from sdc.extract.datasets import DATASETS, Prefixes
from sdc.extract.run import ExtractSettings
from sdc.extract.run import extract_features as run
from sdc.extract.store import FeatureStore

load_digits = pytest.importorskip("sklearn.datasets").load_digits
load_sample_images = pytest.importorskip("sklearn.datasets").load_sample_images

SMALL = (
    "--backbone",
    "test_resnet",
    "--weights",
    "random:0",
    "--image-size",
    "32",
    "--device",
    "cpu",
    "--workers",
    "1",
)
LISTS = ("train.txt", "test.txt", "database.txt")
CIFAR = tuple(f"cifar-10-batches-py/{name}" for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"))


def sdc(*arguments: Any) -> dict[str, Any]:
    """What a command prints with --json, run in this process: importing PyTorch anew takes seconds."""
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False, standalone_mode=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tiles() -> Iterator[tuple[Image.Image, tuple[int, int, int]]]:
    """Pieces of two photographs of a temple and a flower, each with its photograph, row and column there."""
    for photograph, pixels in enumerate(load_sample_images().images):
        for row in range(6):
            for column in range(10):
                yield Image.fromarray(pixels[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]), (
                    photograph, row, column,
                )  # fmt: skip


def listed(root: Path, name: Callable[[int], str], labels: Callable[[int, int, int], str], prefix: str = "") -> Path:
    """A set of 120 tiles with its lists: a quarter train, of which all is database too, and an eighth queries."""
    lines: dict[str, list[str]] = {file: [] for file in LISTS}
    for number, (image, place) in enumerate(tiles()):
        path = root / name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        line = f"{prefix}{name(number)} {labels(*place)}"
        lines["test.txt" if number % 8 == 7 else "database.txt"].append(line)
        if number % 4 == 0:
            lines["train.txt"].append(line)
    for file, content in lines.items():
        (root / file).write_text("\n".join(content) + "\n")
    return root


def hot(columns: int, *ones: int) -> str:
    return " ".join(str(int(column in ones)) for column in range(columns))


class Python2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes text and bytes as Python 2 did, which pickled the real batches."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_text(self, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else value
        self.write(b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text


def write_batch(path: Path, content: object) -> None:
    with path.open("wb") as file:
        Python2(file, 2).dump(content)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))


def cifar10(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Six batches of handwritten digits, reddish; returns the pool, (1797, 32, 32, 3), and its classes."""
    digits = load_digits()
    grey = (digits.images.repeat(4, axis=1).repeat(4, axis=2) * 15).astype(np.uint8)
    pool, classes = np.stack([grey, grey // 2, grey // 3], axis=3), digits.target
    for path, rows in zip(CIFAR, np.array_split(np.arange(len(pool)), 6), strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        content = {
            "batch_label": Path(path).name,
            "labels": classes[rows].tolist(),
            "data": pool[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1),
            "filenames": [f"{row}.png" for row in rows],
        }
        write_batch(root / path, content)
    return pool, classes


def chain(folder: Path, *extract: Any) -> tuple[FeatureStore, dict[str, Any]]:
    """From images to scores; the epochs are few."""
    features, model, index = (folder / name for name in ("feats.h5", "model.safetensors", "db.bin"))
    sdc("extract", *SMALL, *extract, "--out", features)
    sdc("train", "--features", features, "--bits", 16, "--epochs", 2, "--device", "cpu", "--out", model)
    sdc("encode", "--features", features, "--model", model, "--out", index)
    return FeatureStore(features), sdc("evaluate", "--index", index)


def relevant_share(store: FeatureStore) -> float:
    """The share of the database that shares a label with a query, over all queries."""
    assert store.labels is not None
    labels = store.labels if store.labels.ndim == 2 else np.eye(store.labels.max() + 1)[store.labels]
    sets = [set(np.flatnonzero(row)) for row in labels]
    shares = [
        np.mean([bool(sets[query] & sets[item]) for item in store.splits["database"] if item != query])
        for query in store.splits["query"]
    ]
    return float(np.mean(shares))


def check_scores(store: FeatureStore, scores: dict[str, Any], at: int) -> None:
    """The protocol is the set's own; over all of the database the precision is the share of what is relevant."""
    assert store.provenance["protocol"] == {"name": "category", "at": at}
    ranked = len(store.splits["database"])
    assert scores["protocol"] == "category"
    assert scores["at"] == min(at, ranked)
    assert scores["queries"] == len(store.splits["query"])
    assert 0 < scores["map_worst"] <= scores["map"] <= scores["map_best"] <= 1
    if at >= ranked:
        assert scores["precision"][str(ranked)] == pytest.approx(relevant_share(store))


def test_cifar10(tmp_path: Path) -> None:
    pool, classes = cifar10(tmp_path)
    store, scores = chain(tmp_path, "--data", "cifar10", "--root", tmp_path, "--seed", 3)
    check_scores(store, scores, 1000)
    assert scores["map"] > 0.2  # chance is 0.1: the ten digits look different even to random weights
    assert store.provenance["preprocessing"]["resize"] == "squash"
    assert len(store) == len(pool)  # train lies within the database, and is no second copy
    assert store.labels is not None
    assert store.labels.tolist() == classes.tolist()
    assert [store.ids()[row] for row in (0, 300, 1796)] == [
        "data_batch_1/00000",
        "data_batch_2/00000",
        "test_batch/00298",
    ]

    random = np.random.RandomState(3)
    expected: dict[str, list[int]] = {"train": [], "query": [], "database": []}
    for label in range(10):
        order = random.permutation([row for row in range(1797) if classes[row] == label]).tolist()
        expected["query"] += order[:100]
        expected["database"] += order[100:]
        expected["train"] += order[100:600]
    for name, rows in expected.items():
        assert store.splits[name].tolist() == sorted(rows)
    assert store.splits["query"].tolist() != datasets.load_dataset("cifar10", tmp_path).listing.splits["query"].tolist()


def test_cifar10_images_and_their_folder(tmp_path: Path) -> None:
    pool, _ = cifar10(tmp_path)
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        dataset = datasets.load_dataset("cifar10", root)
        for row in (0, 700, 1796):
            np.testing.assert_array_equal(np.asarray(dataset.open(row)), pool[row])
        with dataset.open(0) as image:
            assert image.mode == "RGB"


def test_cifar10_splits_from_a_file(tmp_path: Path) -> None:
    pool, classes = cifar10(tmp_path)
    split = tmp_path / "index.npz"
    np.savez(split, train=[5, 3], query=[1000, 4], database=[3, 5, 6, 1796])
    dataset = datasets.load_dataset("cifar10", tmp_path, str(split))
    rows = [3, 4, 5, 6, 1000, 1796]  # images in none of the splits are left out
    assert {name: part.tolist() for name, part in dataset.listing.splits.items()} == {
        "train": [0, 2], "query": [1, 4], "database": [0, 2, 3, 5],
    }  # fmt: skip
    assert dataset.listing.labels is not None
    assert dataset.listing.labels.tolist() == classes[rows].tolist()
    np.testing.assert_array_equal([np.asarray(dataset.open(row)) for row in range(6)], pool[rows])

    for arrays, message in (
        ({"train": [0], "query": [1797], "database": [1]}, r"index.npz: split query: row 1797 is out of range"),
        ({"train": [0], "query": [1, 1], "database": [1]}, r"index.npz: split query: row 1 is there twice"),
        ({"train": [0], "database": [1]}, r"index.npz: found database, train, expected arrays train, query, database"),
    ):
        np.savez(split, **arrays)  # type: ignore[arg-type]
        with pytest.raises(SdcError, match=message):
            datasets.load_dataset("cifar10", tmp_path, str(split))
    for name, error, message in (
        ("0.1", UsageError, r"--split 0.1: expected an npz"),
        ("absent.npz", SdcError, r"no file of splits at"),
    ):
        with pytest.raises(error, match=message):
            datasets.load_dataset("cifar10", tmp_path, name)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [1]}, r"data_batch_2: expected a dict .* found the keys \[\"b'labels'\"\]"),
        ([1], r"data_batch_2: expected a dict .* found list"),
        ({"data": np.zeros((2, 9), np.uint8), "labels": [0, 1]}, r"found data of shape \(2, 9\)"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}, r"expected a dict .* bytes"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, r"found 2 images, but 1 labels"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, r"found labels that are none"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [[0], [1, 2]]}, r"found labels that are none"),
        ("malicious", r"data_batch_2: the pickle asks for posix.mkdir, which is refused"),
    ],
)
def test_damaged_cifar10(tmp_path: Path, content: object, message: str) -> None:
    cifar10(tmp_path)
    trace = tmp_path / "trace"
    write_batch(tmp_path / CIFAR[1], Malicious(trace) if content == "malicious" else content)
    with pytest.raises(SdcError, match=message):
        datasets.load_dataset("cifar10", tmp_path)
    assert not trace.exists()


def test_imagenet100(tmp_path: Path) -> None:
    root = listed(
        tmp_path / "data",
        lambda number: f"image/n02256656_{number}.JPEG",
        lambda photograph, row, column: str(33 * photograph + column // 5),
        prefix="data/imagenet/",
    )
    store, scores = chain(tmp_path, "--data", "imagenet100", "--root", root)
    check_scores(store, scores, 1000)
    assert store.provenance["preprocessing"]["resize"] == "crop"
    assert store.labels is not None
    assert set(store.labels.tolist()) == {0, 1, 33, 34}
    assert {name: len(rows) for name, rows in store.splits.items()} == {"train": 30, "query": 15, "database": 105}
    assert len(store) == 120
    assert "image/n02256656_7.JPEG" in store.ids(store.splits["query"])

    numbered = datasets.load_dataset("imagenet100", root)
    for file in LISTS:  # the same lists in their other form: zeros and a one
        lines = [line.split() for line in (root / file).read_text().splitlines()]
        (root / file).write_text("".join(f"{path} {hot(100, int(label))}\n" for path, label in lines))
    assert datasets.load_dataset("imagenet100", root).listing.digest() == numbered.listing.digest()


def test_nuswide_relevance_is_a_shared_concept(tmp_path: Path) -> None:
    root = listed(
        tmp_path / "nuswide",
        lambda number: f"images/{number:04d}_2357926116.jpg",
        lambda photograph, row, column: hot(21, photograph, 2 + row, 8 + column) if row + column else hot(21),
    )
    store, scores = chain(tmp_path, "--data", "nuswide", "--root", root)
    check_scores(store, scores, 5000)
    assert store.labels is not None
    assert store.labels.shape == (120, 21)
    rows = {name: row for row, name in enumerate(store.ids())}
    for number, (_, (photograph, row, column)) in enumerate(tiles()):
        found = np.flatnonzero(store.labels[rows[f"images/{number:04d}_2357926116.jpg"]]).tolist()
        assert found == ([photograph, 2 + row, 8 + column] if row + column else [])


def test_coco_with_lists_of_another_machine(tmp_path: Path) -> None:
    """Both folders, absolute paths, and an image that is missing."""
    root = listed(
        tmp_path / "sets" / "coco",
        lambda number: f"{('train2014', 'val2014')[number % 2]}/COCO_{number:012d}.jpg",
        lambda photograph, row, column: hot(80, photograph, 40 + row * column),
        prefix="/home/someone/dataset/coco/",
    )
    with pytest.raises(SdcError, match=r"none of the 120 images .* try --strip-prefix /home/someone/dataset/coco$"):
        datasets.load_dataset("coco", root)
    (root / "val2014" / f"COCO_{7:012d}.jpg").unlink()
    strip = ("--strip-prefix", "/home/someone/dataset/coco/")
    store, scores = chain(tmp_path, "--data", "coco", "--root", root, *strip)
    check_scores(store, scores, 5000)
    assert store.labels is not None
    assert store.labels.shape == (119, 80)
    assert store.skipped == [(f"val2014/COCO_{7:012d}.jpg", "No such file or directory")]
    assert {name: len(rows) for name, rows in store.splits.items()} == {"train": 30, "query": 14, "database": 105}


def test_list(tmp_path: Path, command_in: Any) -> None:
    """As a user runs it, in processes of its own; the queries' list has its other name."""
    root = listed(tmp_path / "mine", lambda number: f"{number}.png", lambda photograph, row, column: str(photograph))
    (root / "test.txt").rename(root / "query.txt")
    command = command_in(tmp_path)
    found = command.json("extract", *SMALL, "--data", "list", "--root", "mine")
    assert (found["rows"], found["labels"]) == (120, [120])
    command("train", "--bits", 16, "--epochs", 2, "--device", "cpu")
    command("encode")
    store, scores = FeatureStore(tmp_path / "feats.h5"), command.json("evaluate")
    check_scores(store, scores, 1000)
    assert scores["map"] > 0.6  # two photographs
    assert "split of its own: leave out --split" in command.error(
        "extract", *SMALL, "--data", "list", "--root", "mine", "--split", "0.1", "--out", "other.h5", code=2
    )


def small(root: Path, names: list[str], files: dict[str, str] | None = None) -> Path:
    """A few images, named by all three lists unless `files` says otherwise."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * number).save(path)
    for file in LISTS:
        content = "".join(f"{name} {number}\n" for number, name in enumerate(names))
        (root / file).write_text((files or {}).get(file, content), encoding="utf-8")
    return root


def test_paths_in_lists(tmp_path: Path) -> None:
    names = ["a/plain.jpg", "b b/my photo 2.jpg", "ü/日本.png", "no_suffix"]
    Image.new("L", (8, 8), 30).save(tmp_path / "no_suffix", "png")
    root = small(tmp_path, names[:3])
    absolute = tmp_path / "else where.bmp"
    Image.new("L", (8, 8), 40).save(absolute)
    lines = [f"./{names[0]} 0", f"  {names[1]}\t1  ", f"{names[2]}   2\r", "", f"{names[3]} 3", f"{absolute} 4"]
    (root / "train.txt").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    dataset = datasets.load_dataset("list", root)
    assert list(dataset.listing.ids) == [*names, str(absolute)]
    assert dataset.listing.labels is not None
    assert dataset.listing.labels.tolist() == [0, 1, 2, 3, 4]
    assert [dataset.open(row).getpixel((0, 0)) for row in range(5)] == [0, 10, 20, 30, 40]
    assert dataset.listing.splits["query"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("strip", ["/old/place", "/old/place/"])
@pytest.mark.parametrize("add", ["moved", "moved/", "ABSOLUTE"])
def test_prefixes_change_where_images_lie_and_not_what_they_are(tmp_path: Path, strip: str, add: str) -> None:
    plain = datasets.load_dataset("list", small(tmp_path / "plain", ["a.png", "c/b.png"]))
    lines = "/old/place/a.png 0\n/old/place/c/b.png 1\n"
    root = small(tmp_path / "moved", ["a.png", "c/b.png"], dict.fromkeys(LISTS, lines)).rename(tmp_path / "lists")
    (root / "moved").mkdir()
    for name in ("a.png", "c"):
        shutil.move(root / name, root / "moved" / name)
    dataset = datasets.load_dataset(
        "list", root, prefixes=Prefixes(strip, add.replace("ABSOLUTE", str(root / "moved")))
    )
    assert dataset.listing.digest() == plain.listing.digest()
    assert dataset.content == plain.content
    assert dataset.open(1).getpixel((0, 0)) == 10
    with pytest.raises(
        UsageError, match=r"--strip-prefix /ol: no path in the lists of .* begins so, e.g. /old/place/a"
    ):
        datasets.load_dataset("list", root, prefixes=Prefixes("/ol"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png 1 0\nb.png 0 1 0\n", r"train.txt, line 2: found 3 labels behind 'b.png', expected 2 as in .*, line 1$"),
        ("a.png 1\n\nb.png 0 1\n", r"train.txt, line 3: found 2 labels .* expected 1 as in .*train.txt, line 1$"),
        ("a.png cat\n", r"train.txt, line 1: found 'cat', expected a path, then labels: whole numbers"),
        ("a.png 1.5\n", r"line 1: found '1.5', expected a path"),
        ("a.png -1\n", r"line 1: found '-1', expected a path"),
        ("a.png 1 x 0\n", r"line 1: found 'x', expected a path"),
        ("a b 1\n", r"line 1: found 'b', expected a path"),
        ("a.png ²\n", r"line 1: found '²', expected a path"),
        ("a.png\n", r"line 1: no labels behind 'a.png', expected whole numbers"),
        ("a.png 1 2\n", r"line 1: found 2 among 2 labels, expected zeros and ones"),
        ("a.png 2147483648\n", r"line 1: class 2147483648 is too large, expected at most 2147483647"),
        ("a.png 0\nb.png 1\n./a.png 1\n", r"train.txt, line 3: a.png has other labels than in .*train.txt, line 1,"),
        ("a.png 3\n", r"test.txt, line 1: a.png has other labels than in .*train.txt, line 1"),
        ("", r"train.txt is empty, expected lines `path labels`"),
        (" \n\n", r"train.txt is empty"),
        (b"a.png \xff\n", r"train.txt is no UTF-8 text"),
    ],
)
def test_lists_that_do_not_fit(tmp_path: Path, text: str | bytes, message: str) -> None:
    small(tmp_path, ["a.png", "b.png"])
    (tmp_path / "train.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SdcError, match=message):
        datasets.load_dataset("list", tmp_path)


def test_an_image_named_again_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small(tmp_path, ["a.png", "b.png"], {"train.txt": "b.png 1\n./b.png 01\na.png 0\n"})
    dataset = datasets.load_dataset("list", tmp_path)
    assert list(dataset.listing.ids) == ["b.png", "a.png"]
    assert dataset.listing.splits["train"].tolist() == [0, 1]
    assert "train.txt: 1 lines name an image again" in caplog.text


def test_lists_of_another_set_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small(tmp_path, ["a.png"], dict.fromkeys(LISTS, f"a.png {hot(21, 3)}\n"))
    assert datasets.load_dataset("nuswide", tmp_path).listing.labels is not None
    assert not caplog.records
    datasets.load_dataset("coco", tmp_path)
    assert "coco usually has 80 labels an image, these lists have 21" in caplog.text


@pytest.mark.parametrize("name", ["imagenet100", "nuswide", "coco", "list"])
def test_a_missing_list_is_named_with_its_source(tmp_path: Path, name: str) -> None:
    small(tmp_path, ["a.png"])
    (tmp_path / "database.txt").unlink()
    source = {"list": "from you"}.get(name, "from the authors' data/")
    with pytest.raises(SdcError, match=rf"^no {re.escape(str(tmp_path))}/database.txt: it comes {source}"):
        datasets.load_dataset(name, tmp_path)


def test_two_lists_of_queries(tmp_path: Path) -> None:
    small(tmp_path, ["a.png"])
    (tmp_path / "query.txt").write_text("a.png 0\n")
    with pytest.raises(SdcError, match=r"has both test.txt and query.txt, expected one"):
        datasets.load_dataset("list", tmp_path)


def test_a_missing_batch_is_named_with_its_source(tmp_path: Path) -> None:
    cifar10(tmp_path)
    (tmp_path / CIFAR[3]).unlink()
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(SdcError, match=rf"^no {tmp_path}/{CIFAR[3]}: it comes from cifar-10-python.tar.gz"):
            datasets.load_dataset("cifar10", root)


@pytest.mark.parametrize(("name", "level"), [("coco", ".."), ("coco", "train2014"), ("cifar10", "..")])
def test_a_wrong_folder_level_is_named_with_the_right_one(tmp_path: Path, name: str, level: str) -> None:
    root = tmp_path / "sets" / name
    if name == "coco":
        small(root, ["train2014/a.png"])
    else:
        cifar10(root)
    with pytest.raises(SdcError, match=rf"but there is one in {root}: name that folder with --root$"):
        datasets.load_dataset(name, (root / level).resolve())


def test_sets_are_found_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "coco", ["a.png"], dict.fromkeys(LISTS, f"a.png {hot(80, 3)}\n"))
    small(tmp_path / "list", ["b.png"])
    cifar10(tmp_path)
    with pytest.raises(UsageError, match=r"--data coco needs --root, or SDC_DATA with a folder coco .*: .* train.txt"):
        datasets.load_dataset("coco")
    monkeypatch.setenv("SDC_DATA", str(tmp_path))
    assert list(datasets.load_dataset("coco").listing.ids) == ["a.png"]
    assert list(datasets.load_dataset("list").listing.ids) == ["b.png"]
    assert list(datasets.load_dataset("list", tmp_path / "coco").listing.ids) == ["a.png"]  # --root goes first
    assert len(datasets.load_dataset("cifar10")) == 1797  # cifar-10-batches-py tells it apart from the others
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(SdcError, match=r"cifar10/cifar-10-batches-py/data_batch_1, but there is one in"):
        datasets.load_dataset("cifar10")  # the folder of its name goes before the shared one
    with pytest.raises(UsageError, match=rf"a folder nuswide in it \(found SDC_DATA={tmp_path}, without one\)"):
        datasets.load_dataset("nuswide")


def test_options_of_other_sets_are_refused(tmp_path: Path) -> None:
    small(tmp_path, ["a.png"])
    with pytest.raises(
        UsageError, match=r"coco has a split of its own: leave out --split \(it is for --data cifar10, f"
    ):
        datasets.load_dataset("coco", tmp_path, "0.1")
    for prefixes, option in ((Prefixes(strip="a"), "strip"), (Prefixes(add="a"), "add")):
        with pytest.raises(
            UsageError, match=rf"folder has no list files: leave out --{option}-prefix \(it is for .*coco"
        ):
            datasets.load_dataset("folder", tmp_path, prefixes=prefixes)


def test_strange_images_are_embedded_or_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photograph, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    root = small(tmp_path / "set", ["good.png"])
    photograph.convert("CMYK").save(root / "cmyk.jpg")
    Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257).save(root / "sixteen.png")
    photograph.convert("L").save(root / "eight.png")
    photograph.convert("P").save(root / "still.gif")
    photograph.convert("P").save(root / "animated.gif", save_all=True, append_images=[flower.convert("P")])
    photograph.save(root / "größe 写真.jpg")
    photograph.save(root / "corrupt.jpg")
    (root / "corrupt.jpg").write_bytes((root / "corrupt.jpg").read_bytes()[:9000])
    (root / "empty.jpg").write_bytes(b"")
    Image.new("1", (10000, 10000)).save(root / "large.png")
    (root / "folder.jpg").mkdir()
    names = [path.name for path in sorted(root.iterdir()) if path.suffix != ".txt"] + ["missing.jpg"]
    for file in LISTS:
        (root / file).write_text("".join(f"{name} 0\n" for name in names), encoding="utf-8")
    settings = {"backbone": "test_resnet", "weights": "random:0", "image_size": 32, "device": "cpu", "workers": 1}
    store = FeatureStore(run(ExtractSettings(data="list", root=root, out=tmp_path / "feats.h5", **settings)))  # type: ignore[arg-type]
    reasons = dict(store.skipped)
    assert reasons.pop("corrupt.jpg").startswith("image file is truncated")
    assert reasons == {
        "empty.jpg": "the file is empty",
        "folder.jpg": "Is a directory",
        "large.png": "more than 89 million pixels: make it smaller",
        "missing.jpg": "No such file or directory",
    }
    rows = dict(zip(store.ids(), store.features.astype(np.float32), strict=True))
    assert set(rows) == {*names} - {*dict(store.skipped)}
    np.testing.assert_allclose(rows["sixteen.png"], rows["eight.png"], rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(rows["animated.gif"], rows["still.gif"], rtol=1e-2, atol=1e-2)  # its first image
    np.testing.assert_allclose(rows["cmyk.jpg"], rows["größe 写真.jpg"], rtol=0.2, atol=0.2)
    assert "DecompressionBomb" not in capfd.readouterr().err


def test_datasets_command(command: Any) -> None:
    found = command.json("datasets")["datasets"]
    assert [entry["name"] for entry in found] == list(DATASETS)
    for entry in found:
        assert set(entry) == {"name", "summary", "needs", "splits", "labels", "protocol", "resize", "options"}
        assert all(set(piece) == {"path", "from"} and all(piece.values()) for piece in entry["needs"])
        assert entry["needs"]
        assert entry["summary"]
        assert entry["splits"]
        assert entry["labels"]
    at = {entry["name"]: entry["protocol"]["at"] for entry in found if entry["protocol"]["name"] == "category"}
    assert {name: at[name] for name in ("cifar10", "imagenet100", "nuswide", "coco", "fashion-mnist", "folder")} == {
        "cifar10": 1000, "imagenet100": 1000, "nuswide": 5000, "coco": 5000, "fashion-mnist": 1000, "folder": 1000,
    }  # fmt: skip
    text = command("datasets").stdout
    for entry in found:
        assert f"\n{entry['name']}: " in f"\n{text}"
        for piece in entry["needs"]:
            assert piece["path"] in text
            assert piece["from"] in text
