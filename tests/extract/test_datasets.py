"""Fashion-MNIST and folders of images: what is listed, with which labels and splits, and clear errors."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdc.errors import SdcError, UsageError
from sdc.extract import ExtractSettings, datasets, extract_features, image_files
from sdc.extract.datasets import fashion_mnist
from sdc.extract.store import FeatureStore, default_splits

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def small(folder: Path, compressed: bool = False) -> np.ndarray:
    """Writes a Fashion-MNIST of 20 and 10 images; returns the images, train first."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    labels = np.arange(30) % 10
    for name, array in zip(NAMES, (images[:20], labels[:20], images[20:], labels[20:]), strict=True):
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return images


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_is_split_as_in_the_comparisons() -> None:
    dataset = datasets.load_dataset("fashion-mnist")
    listing = dataset.listing
    assert len(dataset) == len(listing.ids) == 70000
    assert {name: len(rows) for name, rows in listing.splits.items()} == {
        "train": 5000, "query": 1000, "database": 69000,
    }  # fmt: skip
    assert dataset.resize == "squash"
    assert dataset.protocol == {"name": "category", "at": 1000}
    assert listing.labels is not None

    raw = [gzip.decompress((fashion_mnist.DEBIAN / f"{name}.gz").read_bytes()) for name in NAMES]
    labels = list(raw[1][8:]) + list(raw[3][8:])
    assert listing.labels.tolist() == labels
    random = np.random.RandomState(0)
    expected: dict[str, list[int]] = {"train": [], "query": [], "database": []}
    for label in range(10):
        order = random.permutation([row for row in range(70000) if labels[row] == label]).tolist()
        for place, row in enumerate(order):
            if place < 100:
                expected["query"].append(row)
            else:
                expected["database"].append(row)
                if place < 600:
                    expected["train"].append(row)
    for name, rows in expected.items():
        assert listing.splits[name].tolist() == sorted(rows)

    for row, data, place in ((0, raw[0], 0), (59999, raw[0], 59999), (60000, raw[2], 0), (69999, raw[2], 9999)):
        start = 16 + 784 * place
        assert dataset.open(row).mode == "L"
        assert np.asarray(dataset.open(row)).tobytes() == data[start : start + 784]
    assert [listing.ids[row] for row in (0, 59999, 60000, 69999)] == [
        "train/00000", "train/59999", "t10k/00000", "t10k/09999",
    ]  # fmt: skip


def test_fashion_mnist_has_two_levels(tmp_path: Path) -> None:
    small(tmp_path)
    listing = datasets.load_dataset("fashion-mnist", tmp_path).listing
    assert listing.labels is not None
    assert listing.labels_coarse is not None
    names = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    found: dict[int, set[str]] = {}
    for label, coarse in zip(listing.labels.tolist(), listing.labels_coarse.tolist(), strict=True):
        found.setdefault(coarse, set()).add(names[label])
    assert found == {
        0: {"T-shirt", "pullover", "coat", "shirt"}, 1: {"trouser"}, 2: {"dress"},
        3: {"sandal", "sneaker", "ankle boot"}, 4: {"bag"},
    }  # fmt: skip


def test_fashion_mnist_with_a_strange_label_is_refused(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / NAMES[3]).write_bytes(idx(np.array([3] * 9 + [12])))
    with pytest.raises(SdcError, match="found label 12, expected 0 to 9"):
        datasets.load_dataset("fashion-mnist", tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
def test_fashion_mnist_from_root(tmp_path: Path, compressed: bool, inner: str) -> None:
    images = small(tmp_path / inner, compressed)
    dataset = datasets.load_dataset("fashion-mnist", tmp_path, seed=5)
    assert len(dataset) == 30
    np.testing.assert_array_equal(np.asarray(dataset.open(29)), images[29])
    assert dataset.content == datasets.load_dataset("fashion-mnist", tmp_path).content


def test_fashion_mnist_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--root, then Debian's folder, then the cache, which a download fills."""
    import torchvision.datasets

    downloads = []

    class Download:
        def __init__(self, root: Path, download: bool) -> None:
            downloads.append(root)
            small(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", Download)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = datasets.load_dataset("fashion-mnist")
    assert downloads == [tmp_path / "cache" / "sdc"]
    assert len(first) == 30
    datasets.load_dataset("fashion-mnist")  # from the cache now
    assert len(downloads) == 1

    small(tmp_path / "debian")
    (tmp_path / "cache" / "sdc" / "FashionMNIST" / "raw" / NAMES[0]).write_bytes(b"damaged, but no longer looked at")
    assert len(datasets.load_dataset("fashion-mnist")) == 30
    (tmp_path / "empty").mkdir()
    with pytest.raises(SdcError, match=r"no Fashion-MNIST in .*empty: expected train- and t10k"):
        datasets.load_dataset("fashion-mnist", tmp_path / "empty")


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", refuse)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        SdcError, match=r"cannot download Fashion-MNIST .* install Debian's dataset-fashion-mnist.*--root"
    ):
        datasets.load_dataset("fashion-mnist")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (NAMES[0], lambda data: data[:-1], "is damaged: found 15695 bytes"),
        (NAMES[0], lambda data: b"\0\0\x0d" + data[3:], "begin 00000d03"),
        (NAMES[1], lambda data: idx(np.zeros(19)), "train has 20 images but 19 labels"),
        (f"{NAMES[2]}.gz", lambda data: data[:-9], "cannot read"),
        (f"{NAMES[2]}.gz", lambda data: b"<html>not found</html>", "cannot read"),
    ],
)
def test_damaged_fashion_mnist(tmp_path: Path, name: str, change, message: str) -> None:  # type: ignore[no-untyped-def]
    small(tmp_path, compressed=name.endswith(".gz"))
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(SdcError, match=message):
        datasets.load_dataset("fashion-mnist", tmp_path)


def test_fashion_mnist_has_its_own_split(tmp_path: Path) -> None:
    small(tmp_path)
    with pytest.raises(UsageError, match="split of its own"):
        datasets.load_dataset("fashion-mnist", tmp_path, split="0.1")


def test_an_unknown_set() -> None:
    with pytest.raises(UsageError, match="did you mean 'fashion-mnist'"):
        datasets.load_dataset("fashion_mnist")


def fill(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 5), number).save(root / name)


def test_folder_lists_images_with_subfolders_as_labels(tmp_path: Path) -> None:
    fill(
        tmp_path, "dog/b.png", "dog/deep/a.JPG", "cat/z.webp", "cat/é ü.png", "ant/1.bmp", ".hidden/x.png", "cat/.y.png"
    )
    (tmp_path / "dog/readme.txt").write_text("no image")
    dataset = datasets.load_dataset("folder", tmp_path)
    assert list(dataset.listing.ids) == ["ant/1.bmp", "cat/z.webp", "cat/é ü.png", "dog/b.png", "dog/deep/a.JPG"]
    assert dataset.listing.labels is not None
    assert dataset.listing.labels.tolist() == [0, 1, 1, 2, 2]
    assert dataset.resize == "crop"
    assert dataset.open(3).size == (6, 5)
    assert dataset.open(3).getpixel((0, 0)) == 0
    for name, rows in default_splits(5, 0).items():
        assert dataset.listing.splits[name].tolist() == rows.tolist()


def test_images_are_known_by_their_beginning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    kinds = {"plain": "JPEG", "a.jpg_large": "PNG", "b.part": "WEBP", "c.old": "TIFF", "d.x": "BMP", "e": "GIF"}
    for name, kind in kinds.items():
        Image.new("RGB", (6, 5), "red").save(tmp_path / name, kind)
    Image.new("RGB", (16, 16), "red").save(tmp_path / "f", "ICO")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "g.ico")
    others = {"README": b"BM is text", "h.dat": bytes(100), "i.txt": b"P5 1", "j.txt": b"", "k": b""}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    dataset = datasets.load_dataset("folder", tmp_path)
    assert list(dataset.listing.ids) == ["a.jpg_large", "b.part", "c.old", "d.x", "e", "f", "g.ico", "plain"]
    for row in range(len(dataset)):
        assert dataset.open(row).convert("RGB").getpixel((2, 2))[0] > 250
    assert "no images, and left out: 2 without an ending, 2 .txt, 1 .dat" in caplog.text


def extracted(folder: Path) -> FeatureStore:
    """The features of a folder's images, by a backbone whose weights are drawn."""
    settings = ExtractSettings(
        "test_resnet", "folder", folder, weights="random:0", image_size=32, device="cpu", out=folder / "f.h5"
    )
    return FeatureStore(extract_features(settings))


def test_images_that_nothing_reads_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    image_files.reads_heif.cache_clear()
    heic = b"\0\0\0\x18ftypheic" + bytes(50)
    fill(tmp_path, "p/a.png")
    for name, content in {"p/IMG_1.HEIC": heic, "p/raw.CR2": b"II*\0" + bytes(50), "p/bare": heic}.items():
        (tmp_path / name).write_bytes(content)
    store = extracted(tmp_path)
    image_files.reads_heif.cache_clear()
    assert store.ids() == ["p/a.png"]
    reasons = dict(store.skipped)
    assert "pip install 'sdc-hash[heif]'" in reasons.pop("p/IMG_1.HEIC")
    assert "pip install 'sdc-hash[heif]'" in reasons.pop("p/bare")
    assert reasons == {"p/raw.CR2": "images of kind .cr2 are not read: save it as PNG or JPEG"}
    assert "1 .heic will be left out: HEIC and HEIF are read with pillow-heif" in caplog.text
    assert "1 .cr2 will be left out" in caplog.text


def test_heic_photos_are_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    image_files.reads_heif.cache_clear()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "IMG_1.HEIC")
    shutil.copy(tmp_path / "IMG_1.HEIC", tmp_path / "bare")
    dataset = datasets.load_dataset("folder", tmp_path)
    assert list(dataset.listing.ids) == ["IMG_1.HEIC", "bare"]
    for row in range(2):
        assert dataset.open(row).convert("RGB").getpixel((9, 9))[0] > 240


def test_only_what_is_no_image_is_named(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.mp4"):
        (tmp_path / name).write_text("x")
    with pytest.raises(SdcError, match=r"no image in .* \(found 2 \.txt, 1 \.mp4\)"):
        datasets.load_dataset("folder", tmp_path)


def test_previews_of_file_managers_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fill(
        tmp_path, "p/a.png", "p/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/b.png",
        "x.photoslibrary/resources/c.png", "x.photoslibrary/originals/d.png",
        "q.lrdata/e.jpg", "p/SYNOPHOTO_THUMB_S.jpg",
        "$RECYCLE.BIN/f.png",
    )  # fmt: skip
    dataset = datasets.load_dataset("folder", tmp_path)
    assert list(dataset.listing.ids) == ["p/a.png", "x.photoslibrary/originals/d.png"]
    assert "1 @eaDir" in caplog.text


def test_exclude_leaves_out_names_and_paths(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png", "a/1_thumb.png", "a/old/2.png", "b/old/3.png", "b/4.png")

    def listed(*patterns: str) -> list[str]:
        return list(datasets.load_dataset("folder", tmp_path, exclude=patterns).listing.ids)

    assert listed("*_thumb.*") == ["a/1.png", "a/old/2.png", "b/4.png", "b/old/3.png"]
    assert listed("old") == listed("old/") == ["a/1.png", "a/1_thumb.png", "b/4.png"]
    assert listed("a/old", "*_thumb.png") == ["a/1.png", "b/4.png", "b/old/3.png"]
    assert listed("a/*") == ["b/4.png", "b/old/3.png"]
    with pytest.raises(UsageError, match=r"leave out --exclude \(it is for --data folder\)"):
        datasets.load_dataset("webdataset", tmp_path, exclude=["x"])


def test_a_name_that_is_no_utf8_is_listed_as_skipped(tmp_path: Path) -> None:
    fill(tmp_path, "p/1.png", "p/2.png", "p/caf\\xe9.png", os.fsdecode(b"p/caf\xe9.png"), os.fsdecode(b"caf\xe9/3.png"))
    store = extracted(tmp_path)
    assert sorted(name for name in store.ids() if "caf" not in name) == ["p/1.png", "p/2.png"]
    assert len(store) == 3
    assert {reason for _, reason in store.skipped} == {"its name is not UTF-8: rename it"}
    assert len(store.skipped) == 2


def test_folder_follows_links_once(tmp_path: Path) -> None:
    fill(tmp_path / "else", "a.png")
    fill(tmp_path / "root", "one/b.png")
    os.symlink(tmp_path / "else", tmp_path / "root" / "two")
    os.symlink(tmp_path / "root", tmp_path / "root" / "one" / "loop")
    assert list(datasets.load_dataset("folder", tmp_path / "root").listing.ids) == ["one/b.png", "two/a.png"]


def test_links_to_nowhere_are_listed_and_cannot_be_opened(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png")
    os.symlink("absent.png", tmp_path / "a" / "2.png")
    os.mkfifo(tmp_path / "a" / "3.png")
    dataset = datasets.load_dataset("folder", tmp_path)
    assert list(dataset.listing.ids) == ["a/1.png", "a/2.png"]
    with pytest.raises(FileNotFoundError):
        dataset.open(1)


def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "closed/1.png", "open/2.png")
    scan = os.scandir

    def guarded(path: str) -> Any:  # permissions do not hold root
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(SdcError, match=r"cannot read the folder .*closed .Permission denied."):
        datasets.load_dataset("folder", tmp_path)


def test_flat_folders_have_no_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "b.png", "a.png")
    dataset = datasets.load_dataset("folder", tmp_path)
    assert list(dataset.listing.ids) == ["a.png", "b.png"]
    assert dataset.listing.labels is None
    assert not caplog.records
    fill(tmp_path, "cat/c.png")
    assert datasets.load_dataset("folder", tmp_path).listing.labels is None
    assert "2 of 3 images lie in no subfolder" in caplog.text


def test_the_content_depends_on_images_and_not_on_their_folder(tmp_path: Path) -> None:
    for place in ("one", "two"):
        fill(tmp_path / place, "a/1.png", "b/2.png")
    assert (
        datasets.load_dataset("folder", tmp_path / "one").content
        == datasets.load_dataset("folder", tmp_path / "two").content
    )
    with (tmp_path / "two/a/1.png").open("ab") as file:
        file.write(b"more")
    assert (
        datasets.load_dataset("folder", tmp_path / "one").content
        != datasets.load_dataset("folder", tmp_path / "two").content
    )


def test_split_by_ratio(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number:02d}.png" for number in range(20)))
    splits = datasets.load_dataset("folder", tmp_path, "0.25", 3).listing.splits
    assert len(splits["query"]) == 5
    assert sorted([*splits["query"], *splits["database"]]) == list(range(20))
    assert splits["train"].tolist() == splits["database"].tolist()
    again = datasets.load_dataset("folder", tmp_path, "0.25", 3).listing.splits
    assert splits["query"].tolist() == again["query"].tolist()
    assert (
        splits["query"].tolist()
        != datasets.load_dataset("folder", tmp_path, "0.25", 4).listing.splits["query"].tolist()
    )
    assert len(datasets.load_dataset("folder", tmp_path, "0.001").listing.splits["query"]) == 1
    assert len(datasets.load_dataset("folder", tmp_path, "0.999").listing.splits["database"]) == 1


def test_split_by_file(tmp_path: Path) -> None:
    fill(tmp_path / "images", "a/1.png", "a/2 2.png", "b/3.png", "c/4.png")
    file = tmp_path / "splits.txt"
    file.write_text("b/3.png database\nb/3.png train\na/2 2.png\tquery\n\nb/3.png train\na/1.png database\n")
    listing = datasets.load_dataset("folder", tmp_path / "images", str(file)).listing
    assert list(listing.ids) == ["a/1.png", "a/2 2.png", "b/3.png"]  # c/4.png is in no split
    assert {name: rows.tolist() for name, rows in listing.splits.items()} == {
        "train": [2], "query": [1], "database": [0, 2],
    }  # fmt: skip
    assert listing.labels is not None
    assert listing.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a/1.png train\na/9.png query\n", r"splits.txt, line 2: no image 'a/9.png' in "),
        ("a/1.png train\na/1.png test\n", r"splits.txt, line 2: unknown split 'test', expected one of train, query"),
        ("a/1.png\n", "line 1: unknown split"),
        ("train\n", "line 1: no image ''"),
        ("\n", "is empty"),
        (b"\xff\xff", "is no UTF-8 text"),
    ],
)
def test_split_files_that_do_not_fit(tmp_path: Path, content: str | bytes, message: str) -> None:
    fill(tmp_path / "images", "a/1.png")
    (tmp_path / "splits.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SdcError, match=message):
        datasets.load_dataset("folder", tmp_path / "images", str(tmp_path / "splits.txt"))


@pytest.mark.parametrize("split", ["0", "1", "1.5", "-0.1", "nan", "nowhere.txt"])
def test_splits_that_are_none(tmp_path: Path, split: str) -> None:
    fill(tmp_path, "1.png", "2.png")
    with pytest.raises(UsageError, match=rf"--split {split}: .*0\.1"):
        datasets.load_dataset("folder", tmp_path, split)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs --root"):
        datasets.load_dataset("folder")
    with pytest.raises(SdcError, match=r"absent does not exist, expected a folder of images"):
        datasets.load_dataset("folder", tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SdcError, match=r"notes.txt is a file, expected a folder of images"):
        datasets.load_dataset("folder", tmp_path / "notes.txt")
    with pytest.raises(SdcError, match=r"no image in .*\.jpg"):
        datasets.load_dataset("folder", tmp_path)


def test_a_selection_opens_its_own_rows(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number}.png" for number in range(6)))
    chosen = datasets.load_dataset("folder", tmp_path).select(np.array([1, 4, 5]))
    assert list(chosen.listing.ids) == ["1.png", "4.png", "5.png"]
    assert [chosen.open(row).getpixel((0, 0)) for row in range(3)] == [1, 4, 5]
    assert [chosen.select(np.array([2])).open(0).getpixel((0, 0))] == [5]
