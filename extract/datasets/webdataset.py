"""Tar shards as WebDataset lays them out: 000000.tar, ..., with the files of a sample next to each other.

    0001.jpg  0001.cls  0002.jpg  0002.cls

A sample's key is its path up to the first dot of the file's name; what follows says what the file is. The shards are
indexed by the headers of their members, and an image is read from its place in them: nothing is unpacked.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from sdc.devices import is_main_process
from sdc.errors import SdcError, log
from sdc.extract.datasets.base import About, Images, LoadOptions
from sdc.extract.images import SUFFIXES
from sdc.extract.store import EncodedIds, Listing, PackedIds, default_splits
from sdc.files import checksum, fingerprint
from sdc.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

DEPTHS = ("*", "*/*", "*/*/*")  # where shards lie below the root
SPLIT_NAMES = {
    "train": "train", "query": "query", "val": "query", "validation": "query", "test": "query", "database": "database",
}  # fmt: skip
COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)", re.IGNORECASE)
MAGICS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
LABELS = ("label", "cls")  # the keys of a label in a .json
LARGEST = np.iinfo(np.int32).max
NO_LABEL = -1
REASONS = {  # by the size that stands in the index of an image that cannot be read
    0: "the file is empty",
    -1: "the sample has no image",
    -2: "the sample has several images, expected one",
}
ABOUT = About(
    "tar shards in the layout of WebDataset",
    needs={"000000.tar, train-000000.tar, train/000000.tar or the like": "wherever you have them; not compressed"},
    splits="by folders or shards with train, query (or val, test) and database in their names, train and database "
    "being the same where one of them is not there; else 1 in 10 query, at most 1,000",
    labels="the number in .cls, or in .json under label or cls: in all samples or in none",
)


class Member(NamedTuple):
    """A file in a shard: its sample, what its name says it is, and where its bytes lie."""

    key: str
    kind: str
    offset: int
    size: int


def load(root: Path, options: LoadOptions) -> Images:
    """All samples of the shards below `root`, in the order of the shards' paths; the seed is for the default splits.

    An id is the shard's path without .tar, and the key: train/000000/0001. A sample with no image, or with several
    (0001.mask.png beside 0001.jpg is none), is left out as one that cannot be read.

    Raises:
        SdcError: no shard; one that is compressed, cut off or damaged; shards of which only some name a split;
            samples of which only some have labels, or labels that are no whole numbers of 0 or more.
    """
    paths = _shards(root)
    names = [path.relative_to(root).as_posix().removesuffix(".tar") for path in paths]
    shards = []
    with Progress("list", len(paths), "shards", silent=not is_main_process()) as progress:
        for path, name in zip(paths, names, strict=True):
            shards.append(_indexed(path, name))
            progress.advance()
    packed, *columns = zip(*shards, strict=True)
    ids, (offsets, sizes, labels) = PackedIds.joined(packed), map(np.concatenate, columns)
    if not len(ids):
        raise SdcError(f"no sample in {root}: its {len(paths)} shards hold no files such as 0001.jpg")
    starts = np.cumsum([0, *(len(shard[0]) for shard in shards)])
    del shards

    def picture(row: int) -> Image:
        shard = paths[int(np.searchsorted(starts, row, side="right")) - 1]
        return _image(shard, int(offsets[row]), int(sizes[row]))

    return Images(
        Listing(ids, _splits(names, starts, options.seed), _checked_labels(labels, ids)),
        picture,
        content=fingerprint({"sizes": checksum(sizes)}),  # they stand for contents: to read all takes long
    )


def _shards(root: Path) -> list[Path]:
    """The shards, in the order of their paths."""
    files = [path for depth in DEPTHS for path in root.glob(depth) if path.is_file() and path.name[0] != "."]
    for path in sorted(files):
        if COMPRESSED.fullmatch("".join(path.suffixes[-2:])) or COMPRESSED.fullmatch(path.suffix):
            raise SdcError(_compressed(path))
    shards = sorted(path for path in files if path.suffix == ".tar")
    if not shards:
        raise SdcError(
            f"no shard in {root}: expected files such as 000000.tar there or up to two folders down; correct --root"
        )
    return shards


def _compressed(path: Path, how: str = "") -> str:
    return (
        f"{path} is compressed{how and f' ({how})'}, so that no image in it can be read alone: "
        "decompress it to a plain .tar"
    )


def _indexed(path: Path, name: str) -> tuple[PackedIds, np.ndarray, np.ndarray, np.ndarray]:
    """Of each sample of a shard the id, the image's offset and size (n,) int64, and the label (n,) int64."""
    ids, rows = [], []
    with path.open("rb") as file:
        for key, members in itertools.groupby(_members(file, path), lambda member: member.key):
            files = list(members)
            try:
                ids.append(f"{name}/{key}".encode())
            except UnicodeEncodeError as error:
                raise SdcError(f"{path}: the name {key!r} is not valid Unicode: rename it") from error
            rows.append((*_image_bytes(files), _label(file, path, files)))
    offsets, sizes, labels = np.array(rows, np.int64).reshape(-1, 3).T.copy()
    return PackedIds.of(ids), offsets, sizes, labels


def _members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """The files of a shard, in their order, but those that belong to no sample.

    Raises:
        SdcError: the shard is compressed, cut off, damaged, or no tar.
    """
    start = file.read(8)
    for magic, how in MAGICS.items():
        if start.startswith(magic):
            raise SdcError(_compressed(path, how))
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else those of a large shard fill the memory
                if info.size < 0:
                    raise ValueError(f"a size of {info.size} bytes")
                folder, _, name = info.name.removeprefix("./").rpartition("/")
                stem, _, kind = name.partition(".")
                # As by WebDataset, names like __this__ are no samples; a sparse file's bytes do not lie together.
                if stem and kind and info.isreg() and not info.issparse() and not name.startswith("__"):
                    yield Member(f"{folder}/{stem}" if folder else stem, kind.lower(), info.offset_data, info.size)
            end = tar.offset
    except Exception as error:  # whatever tarfile makes of damaged bytes
        raise SdcError(f"{path} is no tar, or cut off or damaged ({error}): fetch it again") from error
    # Where a header is damaged, tarfile ends as if nothing more came.
    if os.pread(file.fileno(), tarfile.BLOCKSIZE, end) != bytes(tarfile.BLOCKSIZE):
        raise SdcError(f"{path} is cut off or damaged at byte {end}, where no end is marked: fetch it again")


def _image_bytes(members: Sequence[Member]) -> tuple[int, int]:
    """Offset and size of a sample's image in the shard; a size of `REASONS` where it has not exactly one."""
    images = [member for member in members if f".{member.kind.rpartition('.')[2]}" in SUFFIXES]
    plain = [member for member in images if "." not in member.kind] or images
    if len(plain) != 1:
        return 0, -2 if plain else -1
    return plain[0].offset, plain[0].size


def _label(file: BinaryIO, path: Path, members: Sequence[Member]) -> int:
    """A sample's label, or `NO_LABEL`."""
    kinds = {member.kind: member for member in members}
    member = kinds.get("cls") or kinds.get("json")
    if member is None:
        return NO_LABEL
    what = f"{path}, {member.key}.{member.kind}"
    try:
        text = os.pread(file.fileno(), member.size, member.offset).decode()
        value = text.strip() if member.kind == "cls" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SdcError(f"{what} cannot be read ({error}): repair it") from error
    if member.kind == "json":
        value = next((value[name] for name in LABELS if name in value), None) if isinstance(value, dict) else None
        if value is None:
            return NO_LABEL
    digits = str(value)  # a number, or text as in .cls
    if isinstance(value, bool) or not (digits.isascii() and digits.isdecimal() and int(digits) <= LARGEST):
        raise SdcError(f"{what}: found the label {digits[:40]!r}, expected a whole number from 0 to {LARGEST}")
    return int(digits)


def _checked_labels(labels: np.ndarray, names: EncodedIds) -> np.ndarray | None:
    without = np.flatnonzero(labels == NO_LABEL)
    if len(without) == len(labels):
        return None
    if len(without):
        raise SdcError(
            f"{len(without)} of {len(labels)} samples have no label (.cls, or label in .json), the first is "
            f"{names[int(without[0])]}: expected one in all or in none"
        )
    return labels


def _splits(names: Sequence[str], starts: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The splits that the shards' paths name, or `default_splits` where there is no query or nothing else.

    Raises:
        SdcError: some name one and others none.
    """
    split_names = [_split(name) for name in names]
    if None in split_names and any(split_names):
        some = next(name for name, split in zip(names, split_names, strict=True) if split)
        raise SdcError(
            f"{names[split_names.index(None)]}.tar names no split, but {some}.tar does: expected train, query or "
            "database in the names of all of them or of none"
        )
    members: dict[str, list[np.ndarray]] = {}
    for shard, split in enumerate(split_names):
        if split:
            members.setdefault(split, []).append(np.arange(starts[shard], starts[shard + 1]))
    splits = {split: np.concatenate(rows) for split, rows in members.items()}
    if "query" not in splits or len(splits) == 1:
        if splits:
            log.warning("all shards are named %s: splits are taken from them at random", *splits)
        return default_splits(int(starts[-1]), seed)
    for absent, other in (("train", "database"), ("database", "train")):
        if absent not in splits:
            splits[absent] = splits[other]
    return splits


def _split(name: str) -> str | None:
    """The first split that a shard's path names, word by word: train-000000, imagenet/validation/00.

    A word is what stands between other characters than letters.
    """
    words = re.split("[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def _image(path: Path, offset: int, size: int) -> Image:
    """An image in a shard, not yet decoded. Raises ValueError where there is none to read."""
    from PIL import Image as Images

    if size in REASONS:
        raise ValueError(REASONS[size])
    with path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) < size:
        raise ValueError("its shard has been cut off")
    return Images.open(io.BytesIO(data))
