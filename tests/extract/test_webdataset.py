"""Tar shards as a set of images: from shards to scores, the layouts that are taken, and bad shards."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sdc.cli import cli
from sdc.errors import SdcError
from sdc.extract import datasets
from sdc.extract.run import ExtractSettings
from sdc.extract.run import extract_features as run
from sdc.extract.store import FeatureStore

load_sample_images = pytest.importorskip("sklearn.datasets").load_sample_images

SMALL = ("--backbone", "test_resnet", "--weights", "random:0", "--image-size", 32, "--device", "cpu", "--workers", 1)


def jpeg(number: int) -> bytes:
    """A piece of one of two photographs: of the temple if `number` is even, else of the flower."""
    pixels = load_sample_images().images[number % 2]
    row, column = 60 * (number // 2 % 6), 60 * (number // 12 % 10)
    file = io.BytesIO()
    Image.fromarray(pixels[row : row + 60, column : column + 60]).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def pieces() -> list[bytes]:
    return [jpeg(number) for number in range(120)]


def write(path: Path, files: Mapping[str, bytes], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(pieces: list[bytes], numbers: range) -> dict[str, bytes]:
    files = {}
    for number in numbers:
        files[f"{number:04d}.jpg"] = pieces[number]
        files[f"{number:04d}.cls"] = str(number % 2).encode()
        files[f"{number:04d}.txt"] = b"a caption"
    return files


def sdc(*arguments: Any) -> dict[str, Any]:
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False, standalone_mode=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def opened(root: Path) -> dict[str, Image.Image]:
    """The images of a set that can be opened, by id."""
    dataset = datasets.load_dataset("webdataset", root)
    return {name: dataset.open(row) for row, name in enumerate(dataset.listing.ids)}


def test_from_shards_to_scores(tmp_path: Path, pieces: list[bytes]) -> None:
    shards = tmp_path / "shards"
    for shard, numbers in {
        "train-000000": range(30), "train-000001": range(30, 50), "query-000000": range(50, 64),
        "database-000000": range(64, 120),
    }.items():  # fmt: skip
        write(shards / f"{shard}.tar", samples(pieces, numbers))
    features, model, index = (tmp_path / name for name in ("feats.h5", "model.safetensors", "db.bin"))
    sdc("extract", *SMALL, "--data", "webdataset", "--root", shards, "--out", features)
    sdc("train", "--features", features, "--bits", 16, "--epochs", 2, "--device", "cpu", "--out", model)
    sdc("encode", "--features", features, "--model", model, "--out", index)
    scores = sdc("evaluate", "--index", index)
    assert (scores["protocol"], scores["queries"], scores["at"]) == ("category", 14, 56)
    assert scores["map"] > 0.6  # two photographs
    assert scores["precision"]["56"] == pytest.approx(0.5)
    store = FeatureStore(features)
    assert {name: len(rows) for name, rows in store.splits.items()} == {"train": 50, "query": 14, "database": 56}
    assert store.ids()[:2] == ["database-000000/0064", "database-000000/0065"]
    assert store.labels is not None
    assert store.labels.tolist() == [int(name[-1]) % 2 for name in store.ids()]

    # The very same features as those of the same files in a folder.
    for name in store.ids():
        file = tmp_path / "folder" / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pieces[int(name[-4:])])
    sdc("extract", *SMALL, "--data", "folder", "--root", tmp_path / "folder", "--out", tmp_path / "other.h5")
    np.testing.assert_array_equal(FeatureStore(tmp_path / "other.h5").features, store.features)


def test_names_in_a_shard(tmp_path: Path, pieces: list[bytes]) -> None:
    long = "d" * 90 + "/" + "k" * 90
    names = {
        "plain.jpg": "plain", "./leading.jpg": "leading", "a.b/c.d/within.jpg": "a.b/c.d/within", "UPPER.JPG": "UPPER",
        "version.2.jpg": "version", "größe 写真.jpg": "größe 写真", f"{long}.jpg": long,
    }  # fmt: skip
    for number, style in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        root = tmp_path / str(number)
        write(root / "s.tar", dict(zip(names, pieces, strict=False)), format=style)
        found = opened(root)
        assert list(found) == [f"s/{key}" for key in names.values()]
        for image, piece in zip(found.values(), pieces, strict=False):
            np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(piece))))


def test_what_is_no_image_of_a_sample(tmp_path: Path, pieces: list[bytes]) -> None:
    path = write(
        tmp_path / "s.tar",
        {
            "0.jpg": pieces[0], "0.mask.png": pieces[1], "0.json": b'{"caption": "no label"}',
            "._0.jpg": b"of macOS", "__meta__.jpg": pieces[2], "README": b"no dot", ".hidden": b"",
            "1.txt": b"text first", "1.jpg": pieces[1],
        },
    )  # fmt: skip
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.DIRTYPE, "folder.jpg"), (tarfile.SYMTYPE, "2.jpg"), (tarfile.LNKTYPE, "3.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.jpg"
            tar.addfile(info)
    found = opened(tmp_path)
    assert list(found) == ["s/0", "s/1"]
    np.testing.assert_array_equal(np.asarray(found["s/0"]), np.asarray(Image.open(io.BytesIO(pieces[0]))))
    assert datasets.load_dataset("webdataset", tmp_path).listing.labels is None


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"0.cls": b"7\n"}, 7),
        ({"0.json": b'{"label": 3, "cls": 4}'}, 3),
        ({"0.json": b'{"cls": "12"}'}, 12),
        ({"0.json": b'{"label": 3}', "0.cls": b"0"}, 0),
        ({"0.json": b'{"label": null}'}, None),
        ({"0.json": b"[1]"}, None),
        ({"0.txt": b"5"}, None),
    ],
)
def test_labels(tmp_path: Path, pieces: list[bytes], files: dict[str, bytes], label: int | None) -> None:
    write(tmp_path / "s.tar", {"0.jpg": pieces[0], **files})
    labels = datasets.load_dataset("webdataset", tmp_path).listing.labels
    assert (None if labels is None else labels.tolist()) == (None if label is None else [label])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.cls": b"cat"}, r"s.tar, 0.cls: found the label 'cat', expected a whole number from 0 to 2147483647"),
        ({"0.cls": b"-1"}, "found the label '-1'"),
        ({"0.cls": b""}, "found the label ''"),
        ({"0.cls": b"2147483648"}, "found the label '2147483648'"),
        ({"0.cls": b"\xff"}, r"0.cls cannot be read"),
        ({"0.json": b'{"label": "tabby"}'}, r"0.json: found the label 'tabby'"),
        ({"0.json": b'{"label": 1.5}'}, "found the label '1.5'"),
        ({"0.json": b'{"label": true}'}, "found the label 'True'"),
        ({"0.json": b"{"}, r"0.json cannot be read"),
        ({"0.json": b"[" * 100_000}, r"0.json cannot be read"),
        ({"0.cls": b"1", "1.jpg": b""}, r"1 of 2 samples have no label .* the first is s/1: expected one in all or in"),
        ({"0.txt": b"", "1.txt": b"", "0.png": b""}, "id 's/0' is there twice"),
    ],
)
def test_bad_samples_are_refused(tmp_path: Path, pieces: list[bytes], files: dict[str, bytes], message: str) -> None:
    write(tmp_path / "s.tar", {"0.jpg": pieces[0], **files})
    with pytest.raises(SdcError, match=message):
        datasets.load_dataset("webdataset", tmp_path)


def test_bad_images_are_listed(tmp_path: Path, pieces: list[bytes]) -> None:
    files = {
        "good.jpg": pieces[0], "corrupt.jpg": pieces[1][:500], "empty.jpg": b"", "none.txt": b"", "two.jpg": pieces[2],
        "two.png": pieces[3], "masks.a.png": pieces[4], "masks.b.png": pieces[5], "text.jpg": b"text",
    }  # fmt: skip
    write(tmp_path / "s.tar", files)
    settings = {"backbone": "test_resnet", "weights": "random:0", "image_size": 32, "device": "cpu", "workers": 1}
    store = FeatureStore(run(ExtractSettings(data="webdataset", root=tmp_path, out=tmp_path / "f.h5", **settings)))  # type: ignore[arg-type]
    assert store.ids() == ["s/good"]
    reasons = dict(store.skipped)
    assert "truncated" in reasons.pop("s/corrupt").lower()
    assert reasons == {
        "s/empty": "the file is empty",
        "s/none": "the sample has no image",
        "s/two": "the sample has several images, expected one",
        "s/masks": "the sample has several images, expected one",
        "s/text": "not an image, or damaged at its beginning",
    }


def test_files_of_a_sample_may_lie_apart(tmp_path: Path, pieces: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{number:04d}" for number in range(5)]
    files = {f"{name}.jpg": piece for name, piece in zip(names, pieces, strict=False)}
    labels = {f"{name}.cls": str(number % 2).encode() for number, name in enumerate(names)}
    write(tmp_path / "apart" / "s.tar", {**files, **labels})
    beside = {name: content for pair in zip(files.items(), labels.items(), strict=True) for name, content in pair}
    write(tmp_path / "beside" / "s.tar", beside)
    apart, expected = (datasets.load_dataset("webdataset", tmp_path / name) for name in ("apart", "beside"))
    assert apart.listing.digest() == expected.listing.digest()
    assert caplog.text.count("do not lie next to each other") == 1
    for row in range(5):
        np.testing.assert_array_equal(np.asarray(apart.open(row)), np.asarray(expected.open(row)))


def test_numbered_images_are_samples_of_their_own(tmp_path: Path, pieces: list[bytes]) -> None:
    files = {
        "0000.jpg": pieces[0], "0000.cls": b"7",
        "photo.0.jpg": pieces[1], "photo.0.cls": b"1", "photo.11.jpg": pieces[2], "photo.cls": b"2",
        "day.2020.01.jpg": pieces[3], "day.2020.02.jpg": pieces[4], "day.cls": b"3",
    }  # fmt: skip
    write(tmp_path / "s.tar", files)
    dataset = datasets.load_dataset("webdataset", tmp_path)
    assert dataset.listing.labels is not None
    assert dict(zip(dataset.listing.ids, dataset.listing.labels.tolist(), strict=True)) == {
        "s/0000": 7, "s/photo.0": 1, "s/photo.11": 2, "s/day.2020.01": 3, "s/day.2020.02": 3,
    }  # fmt: skip
    for row, piece in enumerate(pieces[:5]):
        np.testing.assert_array_equal(np.asarray(dataset.open(row)), np.asarray(Image.open(io.BytesIO(piece))))


def test_a_key_that_is_no_utf8_cannot_be_opened(tmp_path: Path, pieces: list[bytes]) -> None:
    write(tmp_path / "s.tar", {"good.jpg": pieces[0], "caf\udce9.jpg": pieces[1]}, format=tarfile.GNU_FORMAT)
    dataset = datasets.load_dataset("webdataset", tmp_path)
    assert list(dataset.listing.ids) == ["s/good", "s/caf\\xe9"]
    with pytest.raises(ValueError, match="not UTF-8"):
        dataset.open(1)


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (["train-0", "query-0", "database-0"], {"train": [0], "query": [1], "database": [2]}),
        (["train/0", "test/0", "database/0"], {"train": [0], "query": [1], "database": [2]}),
        (["in1k-train-00", "in1k-validation-00"], {"train": [0], "query": [1], "database": [0]}),
        (["a/val_0", "a/database_0"], {"train": [1], "query": [0], "database": [1]}),
        (["Query-0", "TRAIN-0", "TRAIN-1"], {"train": [1, 2], "query": [0], "database": [1, 2]}),
        (["query/train-0", "database/train-0"], {"train": [1], "query": [0], "database": [1]}),
    ],
)
def test_splits(tmp_path: Path, pieces: list[bytes], shards: list[str], expected: dict[str, list[int]]) -> None:
    for shard in shards:
        write(tmp_path / f"{shard}.tar", {"0.jpg": pieces[0]})
    listing = datasets.load_dataset("webdataset", tmp_path).listing
    found = {name: [listing.ids[row] for row in rows] for name, rows in listing.splits.items()}
    assert found == {name: sorted(f"{shards[place]}/0" for place in places) for name, places in expected.items()}


@pytest.mark.parametrize("shards", [["000000", "000001"], ["train-0", "train-1"], ["trained-0", "contest-0"]])
def test_splits_where_none_is_named(
    tmp_path: Path, pieces: list[bytes], shards: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for shard in shards:
        write(tmp_path / f"{shard}.tar", samples(pieces, range(10)))
    splits = datasets.load_dataset("webdataset", tmp_path, seed=1).listing.splits
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 18, "query": 2, "database": 20}
    assert ("all shards are named train" in caplog.text) == ("train-0" in shards)
    assert (
        splits["query"].tolist()
        != datasets.load_dataset("webdataset", tmp_path, seed=2).listing.splits["query"].tolist()
    )


def test_shards_of_which_some_name_a_split(tmp_path: Path, pieces: list[bytes]) -> None:
    for shard in ("000", "train-0"):
        write(tmp_path / f"{shard}.tar", {"0.jpg": pieces[0]})
    with pytest.raises(SdcError, match=r"000.tar names no split, but train-0.tar does"):
        datasets.load_dataset("webdataset", tmp_path)


def test_a_shard_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tar", {"0.jpg": b"x" * 700, "0.cls": b"1", "1.jpg": b"y" * 512, "1.cls": b"2"})
    data = path.read_bytes()
    end = 4 * 512 + 1024 + 3 * 512  # the members; behind them are zeros, of which 512 mark the end
    for length in {*range(0, end + 512, 97), *range(0, end + 512, 512), end - 1, end + 511}:
        path.write_bytes(data[:length])
        with pytest.raises(SdcError, match=r"s\.tar is (no tar, or )?cut off or damaged"):
            datasets.load_dataset("webdataset", tmp_path)
    for length in (end + 512, end + 700, len(data)):
        path.write_bytes(data[:length])
        assert len(datasets.load_dataset("webdataset", tmp_path)) == 2


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tar", {"0.jpg": b"x" * 700, "1.jpg": b"y" * 512, "2.jpg": b"z"})
    data = path.read_bytes()
    for header in (0, 512 + 1024, 512 + 1024 + 1024):
        for byte in (3, 126, 150):  # name, size, checksum
            damaged = bytearray(data)
            damaged[header + byte] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(SdcError, match=r"s\.tar is (no tar, or )?cut off or damaged"):
                datasets.load_dataset("webdataset", tmp_path)


def test_a_header_that_leads_back_to_itself_is_refused(tmp_path: Path) -> None:
    first, second = tarfile.TarInfo("0.jpg"), tarfile.TarInfo("1.jpg")
    second.size = -512
    headers = first.tobuf(tarfile.GNU_FORMAT) + second.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "s.tar").write_bytes(headers + bytes(1024))
    with pytest.raises(SdcError, match=r"s\.tar is no tar, or cut off or damaged"):
        datasets.load_dataset("webdataset", tmp_path)


def test_compressed_shards_are_refused(tmp_path: Path, pieces: list[bytes]) -> None:
    plain = write(tmp_path / "000.tar", {"0.jpg": pieces[0]})
    for name in ("001.tar.gz", "001.tgz", "001.tar.zst", "001.TAR.GZ"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
        with pytest.raises(SdcError, match=rf"{name} is compressed, .*: decompress it to a plain \.tar"):
            datasets.load_dataset("webdataset", tmp_path)
        (tmp_path / name).unlink()
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(SdcError, match=r"000.tar is compressed \(gzip\)"):
        datasets.load_dataset("webdataset", tmp_path)


def test_folders_without_shards(tmp_path: Path) -> None:
    with pytest.raises(SdcError, match=r"no shard in .*: expected files such as 000000.tar"):
        datasets.load_dataset("webdataset", tmp_path)
    write(tmp_path / "._0.tar", {"0.jpg": b""})
    write(tmp_path / "a" / "b" / "c" / "0.tar", {"0.jpg": b""})
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(SdcError, match="no shard in"):
        datasets.load_dataset("webdataset", tmp_path)
    write(tmp_path / "0.tar", {"README": b""})
    with pytest.raises(SdcError, match=r"no sample in .*: its 1 shards hold no files such as 0001.jpg"):
        datasets.load_dataset("webdataset", tmp_path)
    write(tmp_path / "0.tar", {})
    with pytest.raises(SdcError, match="no sample in"):
        datasets.load_dataset("webdataset", tmp_path)


def test_what_happens_to_shards_while_they_are_read(tmp_path: Path, pieces: list[bytes]) -> None:
    path = write(tmp_path / "s.tar", {"0.jpg": pieces[0], "1.jpg": pieces[1]})
    dataset = datasets.load_dataset("webdataset", tmp_path)
    os.truncate(path, 512 + len(pieces[0]) + 700)
    assert dataset.open(0).size == (60, 60)
    with pytest.raises(ValueError, match="its shard has been cut off"):
        dataset.open(1)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        dataset.open(0)


def test_images_that_change_are_noticed(tmp_path: Path, pieces: list[bytes]) -> None:
    write(tmp_path / "s.tar", {"0.jpg": pieces[0]})
    before = datasets.load_dataset("webdataset", tmp_path)
    assert datasets.load_dataset("webdataset", tmp_path).content == before.content
    write(tmp_path / "s.tar", {"0.jpg": pieces[0] + b"more"})
    assert datasets.load_dataset("webdataset", tmp_path).content != before.content


def test_neither_contents_nor_headers_fill_the_memory(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("large.jpg")
        info.size = 1 << 25
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    header = tarfile.TarInfo("0.jpg")
    with (tmp_path / "t.tar").open("wb") as file:
        for number in range(10_000):
            header.name = f"{number:06d}.jpg"
            file.write(header.tobuf())
        file.write(bytes(1024))
    tracemalloc.start()
    try:
        dataset = datasets.load_dataset("webdataset", tmp_path)
        assert len(dataset) == 10_001
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
