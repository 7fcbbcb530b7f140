"""db.bin on disk: a plain FAISS binary flat index, then a trailer of ours that vouches for it.

    FAISS part │ padding │ arrays, each padded │ JSON header │ footer (56 bytes)

FAISS ignores what follows its part, so `faiss.read_index_binary` reads the file as it stands. The arrays begin
at multiples of 8 bytes; the header names each with type, shape and place in the trailer, and holds the
metadata. The array `chunks` has the XXH3 checksum of every CHUNK bytes of the FAISS part; the footer has the
trailer's checksum and its own.
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

from sdc.artifacts import SdcError, replacing, required

CHUNK = 1 << 20  # bytes of the FAISS part a checksum covers
FAISS_HEADER = struct.Struct("<4siiq?iQ")  # fourcc, bits, bytes a code, count, trained, metric, bytes of codes
_FOURCC = b"IBxF"  # FAISS' mark of an IndexBinaryFlat
_MAGIC = b"sdc-db\r\n"  # the line end shows a transfer in text mode
_VERSION = 1
_FOOTER = struct.Struct("<8sQQQQQ")  # magic, version, FAISS bytes, trailer bytes, header bytes, trailer checksum
_SEAL = struct.Struct("<Q")  # the footer's own checksum, the last 8 bytes of the file
_END = _FOOTER.size + _SEAL.size
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
    """

    bits: int
    codes: np.ndarray
    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray]
    checksum: str | None


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

    def write(self, data: bytes) -> None:
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
    write_faiss: Callable[[Callable[[bytes], None]], None],
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> Path:
    """Writes a db.bin, whole or not at all.

    Args:
        write_faiss: called with a function that takes the FAISS part's bytes, piece by piece.

    Raises:
        SdcError: no such folder, no permission, or a full disk.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
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

    Without, the lengths, the header and the places of the arrays still are, so that nothing reads outside the file.

    Raises:
        SdcError: there is no such file, it is neither, or it is damaged.
    """
    path = required(path, "index", "sdc encode")
    size = path.stat().st_size
    if size < FAISS_HEADER.size:
        raise SdcError(f"{path} has {size} bytes, too few for an index: it is truncated, or no db.bin; {_AGAIN}")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    bits, count = _faiss_shape(path, data)
    faiss_bytes = FAISS_HEADER.size + count * bits // 8
    codes = np.frombuffer(data, np.uint8, count * bits // 8, FAISS_HEADER.size).reshape(count, bits // 8)
    if size == faiss_bytes:
        return Container(bits, codes, {}, {}, None)
    footer = _footer(path, data)
    if footer.faiss_bytes != faiss_bytes:
        raise SdcError(
            f"{path} is damaged: its FAISS part holds {count} codes of {bits} bits, "
            f"which take {faiss_bytes} bytes, not the {footer.faiss_bytes} recorded; {_AGAIN}"
        )
    trailer = memoryview(data)[faiss_bytes : size - _END]
    if verify and xxhash.xxh3_64_intdigest(trailer) != footer.trailer_checksum:
        raise SdcError(f"{path} is damaged: the checksum of its trailer does not match; {_AGAIN}")
    metadata, arrays, sums = _parse(path, trailer, footer.header_bytes)
    if verify:
        _verify_chunks(path, memoryview(data)[:faiss_bytes], sums)
    return Container(bits, codes, metadata, arrays, f"{footer.trailer_checksum:016x}")


def _faiss_shape(path: Path, data: mmap.mmap) -> tuple[int, int]:
    """Bits and count of the FAISS part, checked against the file's size."""
    fourcc, bits, width, count, trained, _, code_bytes = FAISS_HEADER.unpack_from(data)
    if fourcc != _FOURCC:
        raise SdcError(
            f"{path} is no index this sdc reads: it begins with {fourcc!r}, a flat binary index with {_FOURCC!r}; "
            "`sdc encode` makes one"
        )
    whole = trained and bits > 0 and bits == width * 8 and count >= 0 and code_bytes == count * width
    if not whole or code_bytes > len(data) - FAISS_HEADER.size:
        raise SdcError(
            f"{path} is damaged or truncated: its FAISS header says {count} codes of {bits} bits "
            f"({code_bytes} bytes), the file has {len(data)} bytes; {_AGAIN}"
        )
    return bits, count


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
