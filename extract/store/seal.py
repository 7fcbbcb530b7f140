"""The seal at the end of feats.h5: a checksum of HDF5's own structures, compared before HDF5 reads the file.

HDF5 trusts its own structures: of files with one flipped bit in them some crash the process and some never return.
A seal covers every byte outside the datasets (these have checksums of their own) and stands behind HDF5's end of file,
where no reader of HDF5 looks: `JSON, its length, its XXH3, MAGIC`, the JSON being the datasets' extents and the
checksum of the rest.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import BinaryIO

import xxhash

MAGIC = b"sdcfeats"
FOOTER = struct.Struct(f"<QQ{len(MAGIC)}s")


def append_seal(file: BinaryIO, extents: Iterable[tuple[int, int]]) -> None:
    """Seals a finished file, in which the datasets lie at `extents` (first byte, one behind the last)."""
    ordered = sorted((start, stop) for start, stop in extents if stop > start)
    end = file.seek(0, 2)
    text = json.dumps({"extents": ordered, "xxh3": _outside(file, ordered, end)}).encode()
    file.seek(end)
    file.write(text + FOOTER.pack(len(text), xxhash.xxh3_64_intdigest(text), MAGIC))


def has_seal(file: BinaryIO) -> bool:
    """Whether a seal stands at the file's end. A file without one is cut off, or not written by sdc."""
    size = file.seek(0, 2)
    file.seek(max(0, size - FOOTER.size))
    return file.read().endswith(MAGIC)


def check_seal(file: BinaryIO) -> None:
    """Raises ValueError if the seal or anything outside the datasets is damaged."""
    size = file.seek(0, 2)
    file.seek(size - FOOTER.size)
    length, expected, _ = FOOTER.unpack(file.read())
    end = size - FOOTER.size - length
    if end < 0:
        raise ValueError("its seal does not fit in it")
    file.seek(end)
    text = file.read(length)
    if xxhash.xxh3_64_intdigest(text) != expected:
        raise ValueError("its seal does not fit its checksum")
    seal = json.loads(text)
    if _outside(file, seal["extents"], end) != seal["xxh3"]:
        raise ValueError("its structure does not fit its checksum")


def _outside(file: BinaryIO, extents: Iterable[tuple[int, int]], end: int) -> str:
    state, at = xxhash.xxh3_64(), 0
    for start, stop in [*extents, (end, end)]:
        file.seek(at)
        state.update(file.read(start - at))
        at = stop
    return state.hexdigest()
