"""db.bin on disk: a FAISS binary index of some type, then a trailer of ours that vouches for it.

    FAISS part │ padding │ arrays, each padded │ JSON header │ footer (56 bytes)

FAISS ignores what follows its part, so `faiss.read_index_binary` reads the file as it stands. The arrays begin
at multiples of 8 bytes; the header names each with type, shape and offset in the trailer, and holds the
metadata. The array `chunks` has the XXH3 checksum of every CHUNK bytes of the FAISS part; the footer has the
trailer's checksum and its own. `database.codes` is there for types whose FAISS part has the codes in another order
than the database.
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

from sdc.errors import SdcError, UsageError
from sdc.files import ChunkChecksums, atomic_write, json_text, require_file
from sdc.retrieve.index import faiss_layout
from sdc.retrieve.index.faiss_layout import Layout
from sdc.retrieve.index.index_types import IndexType, load_index_type, load_index_types

CHUNK = 1 << 20  # bytes of the FAISS part a checksum covers
_MAGIC = b"sdc-db\r\n"  # the line end shows a transfer in text mode
_VERSION = 1
_FOOTER = struct.Struct("<8sQQQQQ")  # magic, version, FAISS bytes, trailer bytes, header bytes, trailer checksum
_SEAL = struct.Struct("<Q")  # the footer's own checksum, the last 8 bytes of the file
_END = _FOOTER.size + _SEAL.size
CODES = "database.codes"  # the array of codes by position, where the FAISS part has them in another order
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
        index_type: of the FAISS part.
    """

    bits: int
    codes: np.ndarray
    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray]
    checksum: str | None
    index_type: IndexType


class _Footer(NamedTuple):
    faiss_bytes: int
    trailer_bytes: int
    header_bytes: int
    trailer_checksum: int


class _Checked:
    """A file being written whose every CHUNK bytes are checksummed on the way (`write` is FAISS' callback)."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.length = file, 0
        self._checksums = ChunkChecksums(CHUNK)

    def write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self._checksums.update(data)
        self.length += len(data)

    def finish(self) -> np.ndarray:
        return np.array(self._checksums.finish(), np.uint64)


def write(
    path: Path,
    write_faiss: Callable[[Callable[[bytes | memoryview], None]], None],
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> str:
    """Writes a db.bin, whole or not at all.

    Args:
        write_faiss: called with a function that takes the FAISS part's bytes, piece by piece.

    Returns:
        The checksum of its trailer, `Container.checksum`.

    Raises:
        SdcError: no such folder, no permission, or a full disk.
    """
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        body = _Checked(file)
        write_faiss(body.write)
        trailer = _Trailer(file, body.length)
        fields = {
            name: trailer.add(np.ascontiguousarray(array))
            for name, array in {"chunks": body.finish(), **arrays}.items()
        }
        header = json_text({"metadata": metadata, "arrays": fields}, sort_keys=True).encode()
        trailer.write(header)
        checksum = trailer.state.intdigest()
        footer = _FOOTER.pack(_MAGIC, _VERSION, body.length, trailer.length, len(header), checksum)
        file.write(footer + _SEAL.pack(xxhash.xxh3_64_intdigest(footer)))
    return _hex(checksum)


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
        field = {"dtype": dtype.str, "shape": list(array.shape), "offset": self.length}
        if array.nbytes:
            self.write(array.astype(dtype, copy=False).reshape(-1).view(np.uint8).data)
        return field


def read(path: Path, *, verify: bool) -> Container:
    """Maps a db.bin, ours or plain FAISS'; with `verify` every byte of it is checked.

    Without, the lengths, the headers, the offsets of the arrays and the sizes of the lists still are, so that nothing
    reads outside the file; flipped bits in codes, ids, labels, lists and centroids then give wrong answers.

    Raises:
        SdcError: there is no such file, it is neither, or it is damaged.
    """
    path = require_file(path, "index", "sdc encode")
    size = path.stat().st_size
    if size < faiss_layout.FLAT_HEADER.size:
        raise SdcError(f"{path} has {size} bytes, too few for an index: it is truncated, or no db.bin; {_AGAIN}")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    index_type = _type_by_fourcc(path, data)
    layout = _layout(path, data, index_type)
    if size == layout.size and layout.codes_at is not None:
        return Container(layout.bits, _codes(data, layout), {}, {}, None, index_type)
    footer = _footer(path, data)
    if footer.faiss_bytes != layout.size:
        raise SdcError(
            f"{path} is damaged: its FAISS part holds {layout.ntotal} codes of {layout.bits} bits, "
            f"which take {layout.size} bytes, not the {footer.faiss_bytes} recorded; {_AGAIN}"
        )
    trailer = memoryview(data)[layout.size : size - _END]
    if verify and xxhash.xxh3_64_intdigest(trailer) != footer.trailer_checksum:
        raise SdcError(f"{path} is damaged: the checksum of its trailer does not match; {_AGAIN}")
    metadata, arrays, sums = _parse(path, trailer, footer.header_bytes)
    if verify:
        _verify_chunks(path, memoryview(data)[: layout.size], sums)
    codes = arrays.pop(CODES, np.empty(0, np.uint8)) if layout.codes_at is None else _codes(data, layout)
    if codes.dtype != np.uint8 or codes.shape != (layout.ntotal, layout.bits // 8):
        raise SdcError(
            f"{path} is damaged: its FAISS part holds {layout.ntotal} codes of {layout.bits} bits, "
            f"its trailer {codes.dtype} of shape {codes.shape}; {_AGAIN}"
        )
    named = _type_by_name(path, metadata, index_type)
    return Container(layout.bits, codes, metadata, arrays, _hex(footer.trailer_checksum), named)


def _type_by_fourcc(path: Path, data: mmap.mmap) -> IndexType:
    """The first type whose FAISS part begins as the file does."""
    types = load_index_types()
    for each in types:
        if each.fourcc == data[:4]:
            return each
    known = " or ".join(f"{each.fourcc!r} ({each.label})" for each in types)
    raise SdcError(
        f"{path} is no index this sdc reads: it begins with {data[:4]!r}, a binary index with {known}; `sdc encode` "
        "makes one"
    )


def _type_by_name(path: Path, metadata: Mapping[str, Any], by_fourcc: IndexType) -> IndexType:
    """The type that the metadata names: several may write one kind of FAISS index."""
    name = metadata.get("index_type", by_fourcc.name)
    if name == by_fourcc.name:
        return by_fourcc
    try:
        named = load_index_type(str(name))
    except UsageError as error:
        raise SdcError(f"{path} cannot be opened: {error}") from None
    return named if named.fourcc == by_fourcc.fourcc else by_fourcc


def _layout(path: Path, data: mmap.mmap, index_type: IndexType) -> Layout:
    """Raises SdcError unless the FAISS part fits into the file by its headers."""
    if not index_type.keeps_order and data[-_END:][: len(_MAGIC)] != _MAGIC:
        raise SdcError(
            f"{path} is an {index_type.label} index without the footer of a db.bin: it is truncated, or plain FAISS "
            "wrote it; then nothing vouches for it, and FAISS may crash on a damaged one: make it with `sdc encode "
            f"--index-type {index_type.name}`"
        )
    recorded = _FOOTER.unpack_from(data[-_END:])[2] if len(data) >= _END else 0
    try:
        layout = index_type.layout(data, recorded)
    except (struct.error, ValueError):
        layout = None
    if layout is None or layout.size > len(data):
        raise SdcError(
            f"{path} is damaged or truncated: the codes its FAISS header tells of do not fit the file's "
            f"{len(data)} bytes; {_AGAIN}"
        )
    return layout


def _codes(data: mmap.mmap, layout: Layout) -> np.ndarray:
    assert layout.codes_at is not None
    width = layout.bits // 8
    return np.frombuffer(data, np.uint8, layout.ntotal * width, layout.codes_at).reshape(layout.ntotal, width)


def _hex(checksum: int) -> str:
    return f"{checksum:016x}"


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
        for name, field in header["arrays"].items():
            dtype, offset = np.dtype(field["dtype"]), field["offset"]
            length = math.prod(field["shape"]) * dtype.itemsize
            if dtype.hasobject or offset < 0 or offset + length > end:
                raise ValueError(f"the array {name} lies outside the trailer")
            arrays[name] = np.frombuffer(trailer[offset : offset + length], dtype).reshape(field["shape"])
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
