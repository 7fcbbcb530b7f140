"""A tar shard as WebDataset lays it out: its samples, by the headers of its members."""

from __future__ import annotations

import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from sdc.errors import SdcError, log
from sdc.extract.datasets.image_tree import NOT_UTF8, readable_name
from sdc.extract.image_files import SUFFIXES, UNREADABLE, open_bytes
from sdc.extract.store import NO_LABEL, PackedIds

if TYPE_CHECKING:
    from PIL.Image import Image

MAGICS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
LABELS = ("label", "cls")  # the keys of a label in a .json
LARGEST = np.iinfo(np.int32).max
NO_IMAGE, SEVERAL, UNNAMED = -1, -2, -3
REASONS = {  # by the size that stands in the index of an image that cannot be read
    UNNAMED: NOT_UTF8,
    0: "the file is empty",
    NO_IMAGE: "the sample has no image",
    SEVERAL: "the sample has several images, expected one",
}


class Member(NamedTuple):
    """A file in a shard: its sample, what its name says it is, and where its bytes lie."""

    key: str
    kind: str
    offset: int
    size: int


def compressed_text(path: Path, how: str = "") -> str:
    return (
        f"{path} is compressed{how and f' ({how})'}, so that no image in it can be read alone: "
        "decompress it to a plain .tar"
    )


def index_shard(path: Path, name: str) -> tuple[PackedIds, np.ndarray, np.ndarray, np.ndarray]:
    """Of each sample of a shard the id, the image's offset and size (n,) int64, and the label (n,) int64."""
    with path.open("rb") as file:
        groups = itertools.groupby(_members(file, path), lambda member: member.key)
        rows = _rows(file, path, name, ((key, list(members)) for key, members in groups))
        if rows is None:
            log.warning("%s: the files of a sample do not lie next to each other: they are gathered first", path)
            rows = _rows(file, path, name, _gathered(_members(file, path)), again=True)
    ids, places = rows or ([], [])
    offsets, sizes, labels = np.array(places, np.int64).reshape(-1, 3).T.copy()
    return PackedIds.of(ids), offsets, sizes, labels


def _gathered(members: Iterable[Member]) -> Iterator[tuple[str, list[Member]]]:
    """The samples of a shard, from files in any order. Of a key with two plain images, or two files of a kind, two."""
    samples: list[tuple[str, list[Member]]] = []
    latest: dict[str, list[Member]] = {}
    for member in members:
        sample = latest.get(member.key, [])
        plain = "." not in member.kind and _is_image(member)
        if not sample or any(
            other.kind == member.kind or (plain and "." not in other.kind and _is_image(other)) for other in sample
        ):
            sample = latest[member.key] = []
            samples.append((member.key, sample))
        sample.append(member)
    yield from samples


def _rows(
    file: BinaryIO, path: Path, name: str, groups: Iterable[tuple[str, list[Member]]], *, again: bool = False
) -> tuple[list[bytes], list[tuple[int, int, int]]] | None:
    """Of each sample the id, and offset, size and label; None where a key comes again, unless it may."""
    ids, places, seen = [], [], set()
    for whole, files in groups:
        if whole in seen and not again:
            return None
        seen.add(whole)
        for key, members in _numbered(whole, files):
            offset, size = _image_bytes(members)
            shown = readable_name(f"{name}/{key}")
            if shown != f"{name}/{key}":
                offset, size = 0, UNNAMED
            ids.append(shown.encode())
            places.append((offset, size, _label(file, path, members)))
    return ids, places


def _numbered(key: str, members: list[Member]) -> Iterator[tuple[str, list[Member]]]:
    """A sample; where its images are numbered (photo.0.jpg, photo.1.jpg) each with what has its number, or has none."""
    images = [member for member in members if _is_image(member)]
    numbers = [member.kind.rpartition(".")[0] for member in images]
    if len(images) < 2 or not all(re.fullmatch(r"[0-9]+(\.[0-9]+)*", number) for number in numbers):
        yield key, members
        return
    for number in dict.fromkeys(numbers):
        own = {
            member.kind.removeprefix(f"{number}."): member for member in members if member.kind.startswith(f"{number}.")
        }
        shared = {member.kind: member for member in members if "." not in member.kind}
        sample = f"{key}.{number}"
        yield sample, [member._replace(key=sample, kind=kind) for kind, member in {**shared, **own}.items()]


def _is_image(member: Member) -> bool:
    ending = f".{member.kind.rpartition('.')[2]}"
    return ending in SUFFIXES or ending in UNREADABLE


def _members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """The files of a shard, in their order, but those that belong to no sample.

    Raises:
        SdcError: the shard is compressed, cut off, damaged, or no tar.
    """
    file.seek(0)
    start = file.read(8)
    for magic, how in MAGICS.items():
        if start.startswith(magic):
            raise SdcError(compressed_text(path, how))
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
    images = [member for member in members if _is_image(member)]
    plain = [member for member in images if "." not in member.kind] or images
    if len(plain) != 1:
        return 0, SEVERAL if plain else NO_IMAGE
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


def shard_image(path: Path, offset: int, size: int) -> Image:
    """An image in a shard, not yet decoded. Raises ValueError where there is none to read."""
    if size in REASONS:
        raise ValueError(REASONS[size])
    with path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) < size:
        raise ValueError("its shard has been cut off")
    return open_bytes(data)
