"""db.bin on disk: a plain FAISS binary index, flat or IVF, then a trailer of ours that vouches for it.

    FAISS part │ padding │ arrays, each padded │ JSON header │ footer (56 bytes)

FAISS ignores what follows its part, so `faiss.read_index_binary` reads the file as it stands. The arrays begin
at multiples of 8 bytes; the header names each with type, shape and place in the trailer, and holds the
metadata. The array `chunks` has the XXH3 checksum of every CHUNK bytes of the FAISS part; the footer has the
trailer's checksum and its own. `database.codes` is there for IVF alone, which keeps codes by list.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash

from sdc.errors import SdcError
from sdc.files import atomic_write, require_file

CHUNK = 1 << 20  # bytes of the FAISS part a checksum covers
FAISS_HEADER = struct.Struct("<4siiq?iQ")  # fourcc, bits, bytes a code, count, trained, metric, bytes of codes
_INVERTED = struct.Struct("<4siiq?iQQ")  # fourcc, bits, bytes a code, count, trained, metric, lists, nprobe
# Direct map: type, length; lists: mark, how many, bytes a code; sizes: kind, length.
_LISTS = struct.Struct("<bQ4sQQ4sQ")
_FLAT, _IVF = b"IBxF", b"IBwF"  # FAISS' marks of an IndexBinaryFlat and an IndexBinaryIVF
_MAGIC = b"sdc-db\r\n"  # the line end shows a transfer in text mode
_VERSION = 1
_FOOTER = struct.Struct("<8sQQQQQ")  # magic, version, FAISS bytes, trailer bytes, header bytes, trailer checksum
_SEAL = struct.Struct("<Q")  # the footer's own checksum, the last 8 bytes of the file
_END = _FOOTER.size + _SEAL.size
CODES = "database.codes"  # the array of an IVF index's codes by position
_AGAIN = "make it again with `sdc encode`, or fetch a good copy"


@dataclass(frozen=True)
class Container:
    """What a db.bin holds, as views of the mapped file.

    Attributes:
        bits: length of a code.
        codes: (N, bits // 8) uint8, read-only.
        metadata: the trailer's JSON; empty where plain FAISS wrote the file.
        arrays: the trailer's arrays by name; empty likewise.
        checksum: of the trailer, which holds the checksums of all the rest; None likewise.
        lists: how many lists an IVF index has; None where it is flat.
    """

    bits: int
    codes: np.ndarray
    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray]
    checksum: str | None
    lists: int | None = None


class _Footer(NamedTuple):
    faiss_bytes: int
    trailer_bytes: int
    header_bytes: int
    trailer_checksum: int


class _Checked:
    """A file being written whose every CHUNK bytes are checksummed on the way (`write` is FAISS' callback)."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.length, self.sums = file, 0, list[int]()
        self._state = xxhash.xxh3_64()

    def write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        view = memoryview(data)
        while len(view):
            room = CHUNK - self.length % CHUNK
            self._state.update(view[:room])
            self.length += len(view[:room])
            view = view[room:]
            if self.length % CHUNK == 0:
                self._end_chunk()

    def finish(self) -> np.ndarray:
        if self.length % CHUNK:
            self._end_chunk()
        return np.array(self.sums, np.uint64)

    def _end_chunk(self) -> None:
        self.sums.append(self._state.intdigest())
        self._state.reset()


def write(
    path: Path,
    write_faiss: Callable[[Callable[[bytes | memoryview], None]], None],
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> Path:
    """Writes a db.bin, whole or not at all.

    Args:
        write_faiss: called with a function that takes the FAISS part's bytes, piece by piece.

    Raises:
        SdcError: no such folder, no permission, or a full disk.
    """
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        body = _Checked(file)
        write_faiss(body.write)
        trailer = _Trailer(file, body.length)
        places = {
            name: trailer.add(np.ascontiguousarray(array))
            for name, array in {"chunks": body.finish(), **arrays}.items()
        }
        header = json.dumps({"metadata": metadata, "arrays": places}, ensure_ascii=False, sort_keys=True).encode()
        trailer.write(header)
        footer = _FOOTER.pack(_MAGIC, _VERSION, body.length, trailer.length, len(header), trailer.state.intdigest())
        file.write(footer + _SEAL.pack(xxhash.xxh3_64_intdigest(footer)))
    return path


class _Trailer:
    """The trailer being written: arrays at multiples of 8 bytes of the file, one checksum over all."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self.file, self.start, self.length = file, start, 0
        self.state = xxhash.xxh3_64()

    def write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.state.update(data)
        self.length += len(data)

    def add(self, array: np.ndarray) -> dict[str, Any]:
        self.write(b"\0" * (-(self.start + self.length) % 8))
        dtype = array.dtype.newbyteorder("<")
        place = {"dtype": dtype.str, "shape": list(array.shape), "offset": self.length}
        if array.nbytes:
            self.write(array.astype(dtype, copy=False).reshape(-1).view(np.uint8).data)
        return place


def read(path: Path, *, verify: bool) -> Container:
    """Maps a db.bin, ours or plain FAISS'; with `verify` every byte of it is checked.

    Without, the lengths, the headers, the places of the arrays and the sizes of the lists still are, so that nothing
    reads outside the file; flipped bits in codes, ids, labels, lists and centroids then give wrong answers.

    Raises:
        SdcError: there is no such file, it is neither, or it is damaged.
    """
    path = require_file(path, "index", "sdc encode")
    size = path.stat().st_size
    if size < FAISS_HEADER.size:
        raise SdcError(f"{path} has {size} bytes, too few for an index: it is truncated, or no db.bin; {_AGAIN}")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    shape = _shape(path, data)
    if size == shape.size and shape.lists is None:
        return Container(shape.bits, _flat_codes(data, shape), {}, {}, None)
    footer = _footer(path, data)
    if footer.faiss_bytes != shape.size:
        raise SdcError(
            f"{path} is damaged: its FAISS part holds {shape.ntotal} codes of {shape.bits} bits, "
            f"which take {shape.size} bytes, not the {footer.faiss_bytes} recorded; {_AGAIN}"
        )
    trailer = memoryview(data)[shape.size : size - _END]
    if verify and xxhash.xxh3_64_intdigest(trailer) != footer.trailer_checksum:
        raise SdcError(f"{path} is damaged: the checksum of its trailer does not match; {_AGAIN}")
    metadata, arrays, sums = _parse(path, trailer, footer.header_bytes)
    if verify:
        _verify_chunks(path, memoryview(data)[: shape.size], sums)
    codes = _flat_codes(data, shape) if shape.lists is None else arrays.pop(CODES, np.empty(0, np.uint8))
    if codes.dtype != np.uint8 or codes.shape != (shape.ntotal, shape.bits // 8):
        raise SdcError(
            f"{path} is damaged: its FAISS part holds {shape.ntotal} codes of {shape.bits} bits, "
            f"its trailer {codes.dtype} of shape {codes.shape}; {_AGAIN}"
        )
    return Container(shape.bits, codes, metadata, arrays, f"{footer.trailer_checksum:016x}", shape.lists)


class _Shape(NamedTuple):
    """What the headers of a FAISS part say: the codes, the lists if it has any, and the bytes it takes."""

    bits: int
    ntotal: int
    lists: int | None
    size: int


def _shape(path: Path, data: mmap.mmap) -> _Shape:
    """Raises SdcError unless the FAISS part fits into the file by its headers."""
    mark = data[:4]
    if mark not in (_FLAT, _IVF):
        raise SdcError(
            f"{path} is no index this sdc reads: it begins with {mark!r}, a binary index with {_FLAT!r} (flat) or "
            f"{_IVF!r} (IVF); `sdc encode` makes one"
        )
    if mark == _IVF and data[-_END:][: len(_MAGIC)] != _MAGIC:
        raise SdcError(
            f"{path} is an IVF index without the footer of a db.bin: it is truncated, or plain FAISS wrote it; then "
            "nothing vouches for it, and FAISS may crash on a damaged one: make it with `sdc encode --index-type ivf`"
        )
    try:
        shape = _flat_shape(data, 0) if mark == _FLAT else _inverted_shape(data)
    except (struct.error, ValueError):
        shape = None
    if shape is None or shape.size > len(data):
        raise SdcError(
            f"{path} is damaged or truncated: the codes its FAISS header tells of do not fit the file's "
            f"{len(data)} bytes; {_AGAIN}"
        )
    return shape


def _flat_shape(data: mmap.mmap, start: int) -> _Shape:
    """Of an IndexBinaryFlat. Raises ValueError where its header contradicts itself."""
    mark, bits, width, count, trained, _, code_bytes = FAISS_HEADER.unpack_from(data, start)
    if not (
        mark == _FLAT and trained and bits > 0 and bits == width * 8 and count >= 0 and code_bytes == count * width
    ):
        raise ValueError
    return _Shape(bits, count, None, FAISS_HEADER.size + code_bytes)


def _inverted_shape(data: mmap.mmap) -> _Shape:
    """Of an IndexBinaryIVF: header, quantizer, a direct map (none), lists. Raises ValueError likewise."""
    _, bits, width, count, trained, _, lists, _ = _INVERTED.unpack_from(data)
    quantizer = _flat_shape(data, _INVERTED.size)
    if not (trained and bits == width * 8 and count >= 0 and (quantizer.bits, quantizer.ntotal) == (bits, lists)):
        raise ValueError
    at = _INVERTED.size + quantizer.size
    mapped, map_size, mark, number, list_width, kind, values = _LISTS.unpack_from(data, at)
    if (mapped, map_size, mark, number, list_width) != (0, 0, b"ilar", lists, width):
        raise ValueError
    if (kind, values) == (b"full", lists):
        sizes = np.frombuffer(data, np.uint64, lists, at + _LISTS.size)
    elif kind == b"sprs" and values % 2 == 0 and values <= 2 * lists:
        pairs = np.frombuffer(data, np.uint64, values, at + _LISTS.size).reshape(-1, 2)
        sizes = pairs[:, 1]
        if (pairs[:, 0] >= lists).any():
            raise ValueError
    else:
        raise ValueError
    if (sizes > count).any() or int(sizes.sum()) != count:
        raise ValueError
    return _Shape(bits, count, lists, at + _LISTS.size + 8 * values + count * (width + 8))


def _flat_codes(data: mmap.mmap, shape: _Shape) -> np.ndarray:
    width = shape.bits // 8
    return np.frombuffer(data, np.uint8, shape.ntotal * width, FAISS_HEADER.size).reshape(shape.ntotal, width)


def _footer(path: Path, data: mmap.mmap) -> _Footer:
    end = data[-_END:]
    magic, version, *lengths = _FOOTER.unpack_from(end)
    (seal,) = _SEAL.unpack_from(end, _FOOTER.size)
    if magic != _MAGIC or seal != xxhash.xxh3_64_intdigest(end[: _FOOTER.size]):
        raise SdcError(f"{path} is damaged or truncated: its last {_END} bytes are no footer of a db.bin; {_AGAIN}")
    if version != _VERSION:
        raise SdcError(f"{path} is a db.bin of version {version}, this sdc reads {_VERSION}: upgrade sdc-hash")
    footer = _Footer(*lengths)
    if footer.faiss_bytes + footer.trailer_bytes + _END != len(data) or footer.header_bytes > footer.trailer_bytes:
        raise SdcError(f"{path} is damaged: its parts do not add up to its {len(data)} bytes; {_AGAIN}")
    return footer


def _parse(
    path: Path, trailer: memoryview, header_bytes: int
) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    """Metadata, arrays, and the checksums of the FAISS part's chunks."""
    end = len(trailer) - header_bytes
    try:
        header = json.loads(bytes(trailer[end:]))
        arrays = {}
        for name, place in header["arrays"].items():
            dtype, offset = np.dtype(place["dtype"]), place["offset"]
            length = math.prod(place["shape"]) * dtype.itemsize
            if dtype.hasobject or offset < 0 or offset + length > end:
                raise ValueError(f"the array {name} lies outside the trailer")
            arrays[name] = np.frombuffer(trailer[offset : offset + length], dtype).reshape(place["shape"])
        sums = arrays.pop("chunks")
        return {**header["metadata"]}, arrays, sums
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SdcError(f"{path} is damaged: its trailer cannot be read ({error}); {_AGAIN}") from None


def _verify_chunks(path: Path, body: memoryview, sums: np.ndarray) -> None:
    starts = range(0, len(body), CHUNK)
    if len(sums) != len(starts):
        raise SdcError(f"{path} is damaged: {len(sums)} checksums for {len(starts)} chunks; {_AGAIN}")
    for number, start in enumerate(starts):
        if xxhash.xxh3_64_intdigest(body[start : start + CHUNK]) != int(sums[number]):
            raise SdcError(
                f"{path} is damaged: the codes in bytes {start} to {min(start + CHUNK, len(body))} "
                f"do not match their checksum; {_AGAIN}"
            )
