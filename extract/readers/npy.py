"""NumPy's npy and npz files."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from sdc.errors import SdcError
from sdc.extract.readers.single_rows import gather_rows
from sdc.extract.readers.table import ContentError, Table, block_rows, sliced_blocks, unreadable

OBJECTS = "holds Python objects, which are never unpickled; save plain numbers or text, as by array.astype(str)"
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]  # shape, whether by columns, dtype


def read_npy(path: Path) -> list[Table]:
    """The only array of an npy file."""
    with path.open("rb") as file:
        shape, fortran, dtype = header = _npy_header(file)
        if not shape:
            raise ContentError("it holds a single value, expected rows")
        refused = _refused("", header)
        if refused is not None:
            return [refused]
        if 0 in shape:
            return [Table("", shape, dtype.name, lambda: iter(()))]
        offset = file.tell()
        present = (file.seek(0, 2) - offset) // max(1, dtype.itemsize * math.prod(shape[1:]))
        if present < shape[0]:
            raise SdcError(f"cannot read {path}: truncated, found {present} rows, expected {shape[0]}")
        array = np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")
    return [Table("", shape, dtype.name, sliced_blocks(array, shape, dtype.itemsize))]


def _npy_header(file: IO[bytes]) -> Header:
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ContentError(f"npy format {version[0]}.{version[1]}, expected 1.0 or 2.0")
    return readers[version](file)


def _refused(name: str, header: Header) -> Table | None:
    """The table of an array that is not read; None of one that is."""
    shape, _, dtype = header
    if dtype.hasobject:
        return unreadable(name, shape, "object", OBJECTS)
    if dtype.kind in "VMm":
        kind = "records" if dtype.fields else str(dtype)
        return unreadable(name, shape, kind, f"holds {kind}: save plain numbers or text, as by array.astype(str)")
    return None


def read_npz(path: Path) -> list[Table]:
    """The arrays of an npz file, by the names they were saved under; an array a row is read as rows."""
    import zipfile

    def read_all(names: Sequence[str]) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(path) as again:
            for name in names:
                with again.open(f"{name}.npy") as file:
                    yield np.lib.format.read_array(file, allow_pickle=False)

    with zipfile.ZipFile(path) as archive:
        tables = [_npz_member(path, archive, name) for name in archive.namelist() if name.endswith(".npy")]
    return gather_rows(tables, read_all)


def _npz_member(path: Path, archive: Any, member: str) -> Table:
    with archive.open(member) as file:
        shape, fortran, dtype = header = _npy_header(file)
    name = member.removesuffix(".npy")
    refused = _refused(name, header)
    if refused is not None:
        return refused

    def blocks() -> Iterator[np.ndarray]:
        import zipfile

        with zipfile.ZipFile(path) as again, again.open(member) as file:
            _npy_header(file)
            yield from (_by_columns if fortran and len(shape) > 1 else _by_rows)(file, member, header)

    return Table(name, shape, dtype.name, blocks)


def _by_rows(file: IO[bytes], member: str, header: Header) -> Iterator[np.ndarray]:
    shape, _, dtype = header
    row_bytes, step = dtype.itemsize * math.prod(shape[1:]), block_rows(shape, dtype.itemsize)
    for start in range(0, shape[0], step):
        rows = min(step, shape[0] - start)
        data = file.read(rows * row_bytes)
        if len(data) < rows * row_bytes:
            raise ValueError(f"{member} ends in row {start + len(data) // row_bytes} of {shape[0]}")
        yield np.frombuffer(data, dtype).reshape(rows, *shape[1:])


def _by_columns(file: IO[bytes], member: str, header: Header) -> Iterator[np.ndarray]:
    """Rows of an array whose columns come one after the other: unpacked into a temporary file, which is mapped."""
    import tempfile

    shape, _, dtype = header
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(file, unpacked, 1 << 20)
        if unpacked.tell() < dtype.itemsize * math.prod(shape):
            raise ValueError(f"{member} ends after {unpacked.tell()} bytes")
        unpacked.flush()
        yield from sliced_blocks(np.memmap(unpacked, dtype, "r", 0, shape, "F"), shape, dtype.itemsize)()
