"""NumPy's npy and npz files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from sdc.errors import SdcError
from sdc.extract.readers.table import Table, block_rows, sliced_blocks


def read_npy(path: Path) -> list[Table]:
    """The only array of an npy file."""
    with path.open("rb") as file:
        shape, fortran, dtype = _npy_header(file)
        if 0 in shape:
            return [Table("", shape, dtype.name, lambda: iter(()))]
        offset = file.tell()
        present = (file.seek(0, 2) - offset) // max(1, dtype.itemsize * math.prod(shape[1:]))
        if present < shape[0]:
            raise SdcError(f"cannot read {path}: truncated, found {present} rows, expected {shape[0]}")
        array = np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")
    return [Table("", shape, dtype.name, sliced_blocks(array, shape, dtype.itemsize))]


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy format {version}, expected 1.0 or 2.0")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled; save plain numbers or text")
    if not shape:
        raise ValueError("it holds a single value, expected rows")
    return shape, fortran, dtype


def read_npz(path: Path) -> list[Table]:
    """The arrays of an npz file, by the names they were saved under."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return [_npz_member(path, archive, name) for name in archive.namelist() if name.endswith(".npy")]


def _npz_member(path: Path, archive: Any, member: str) -> Table:
    with archive.open(member) as file:
        shape, fortran, dtype = _npy_header(file)

    def blocks() -> Iterator[np.ndarray]:
        import zipfile

        if fortran and len(shape) > 1:
            raise ValueError(f"{member} is stored by columns; save np.ascontiguousarray(array), or a .npy file")
        row_bytes, step = dtype.itemsize * math.prod(shape[1:]), block_rows(shape, dtype.itemsize)
        with zipfile.ZipFile(path) as again, again.open(member) as file:
            _npy_header(file)
            for start in range(0, shape[0], step):
                rows = min(step, shape[0] - start)
                data = file.read(rows * row_bytes)
                if len(data) < rows * row_bytes:
                    raise ValueError(f"{member} ends in row {start + len(data) // row_bytes} of {shape[0]}")
                yield np.frombuffer(data, dtype).reshape(rows, *shape[1:])

    return Table(member.removesuffix(".npy"), shape, dtype.name, blocks)
