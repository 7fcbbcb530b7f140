"""Arrays in other people's files, read block by block: npy, npz, parquet, safetensors, HDF5, fvecs, bvecs and what
`torch.save` wrote.

`tables` says what a file holds; nothing is read into memory before its blocks are asked for, and nothing but tensors
and plain values is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from sdc.artifacts import SdcError, UsageError

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Table:
    """A named array in a file, and how its rows are had.

    Attributes:
        name: its name in the file, empty where the format has none.
        shape: (N,) or (N, d) or more.
        dtype: a NumPy name, or "bfloat16", the blocks of which come as float32.
        blocks: reads it anew, as consecutive blocks of rows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def floating(self) -> bool:
        return self.dtype.startswith(("float", "bfloat"))

    @property
    def numeric(self) -> bool:
        return self.floating or self.dtype.startswith(("int", "uint"))

    def __str__(self) -> str:
        return f"{self.name or 'array'} {self.shape} {self.dtype}"

    def read(self) -> np.ndarray:
        """All of it, in memory."""
        return np.concatenate([*self.blocks()]) if 0 not in self.shape else np.empty(self.shape)


def tables(path: Path) -> list[Table]:
    """What the file holds.

    Raises:
        UsageError: the name's ending is none of those known.
        SdcError: the file is not what its ending says, is truncated, or holds pickled objects. Reading
            blocks raises it too.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        hint = " (pickled files are never loaded)" if path.suffix.lower() in (".pkl", ".pickle") else ""
        raise UsageError(
            f"cannot read {path}: unknown kind of file {path.suffix!r}{hint}, expected one of {', '.join(READERS)}"
        )
    with explaining(path):
        found = reader(path)
    return [Table(table.name, table.shape, table.dtype, _explained(path, table.blocks)) for table in found]


@contextlib.contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turns whatever a parser makes of a bad file into a one-line error about `path`."""
    try:
        yield
    except SdcError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SdcError(f"cannot read {path}: {reason}: is it whole, and what its ending says?") from error


def _explained(path: Path, blocks: Callable[[], Iterator[np.ndarray]]) -> Callable[[], Iterator[np.ndarray]]:
    def read() -> Iterator[np.ndarray]:
        with explaining(path):
            source = blocks()
        while True:
            with explaining(path):
                block = next(source, None)
            if block is None:
                return
            yield block

    return read


def _step(shape: tuple[int, ...], itemsize: int) -> int:
    return max(1, BLOCK_BYTES // max(1, itemsize * math.prod(shape[1:])))


def _sliced(array: Any, shape: tuple[int, ...], itemsize: int) -> Callable[[], Iterator[np.ndarray]]:
    step = _step(shape, itemsize)
    return lambda: (np.asarray(array[start : start + step]) for start in range(0, shape[0], step))


def _npy(path: Path) -> list[Table]:
    with path.open("rb") as file:
        shape, fortran, dtype = _npy_header(file)
        if 0 in shape:
            return [Table("", shape, dtype.name, lambda: iter(()))]
        offset = file.tell()
        present = (file.seek(0, 2) - offset) // max(1, dtype.itemsize * math.prod(shape[1:]))
        if present < shape[0]:
            raise SdcError(f"cannot read {path}: truncated, found {present} rows, expected {shape[0]}")
        array = np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")
    return [Table("", shape, dtype.name, _sliced(array, shape, dtype.itemsize))]


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


def _npz(path: Path) -> list[Table]:
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
        row_bytes, step = dtype.itemsize * math.prod(shape[1:]), _step(shape, dtype.itemsize)
        with zipfile.ZipFile(path) as again, again.open(member) as file:
            _npy_header(file)
            for start in range(0, shape[0], step):
                rows = min(step, shape[0] - start)
                data = file.read(rows * row_bytes)
                if len(data) < rows * row_bytes:
                    raise ValueError(f"{member} ends in row {start + len(data) // row_bytes} of {shape[0]}")
                yield np.frombuffer(data, dtype).reshape(rows, *shape[1:])

    return Table(member.removesuffix(".npy"), shape, dtype.name, blocks)


SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def _safetensors(path: Path) -> list[Table]:
    # Read here rather than by the library: its NumPy side knows no bfloat16, what embeddings often come in.
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size:
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return [
            _tensor(file, name, entry, 8 + length, size)
            for name, entry in header.items()
            if entry["dtype"] in SAFETENSORS and entry["shape"]
        ]


def _tensor(file: IO[bytes], name: str, entry: dict[str, Any], start: int, size: int) -> Table:
    shape, dtype = tuple(entry["shape"]), np.dtype(SAFETENSORS[entry["dtype"]])
    begin, end = entry["data_offsets"]
    if end - begin != dtype.itemsize * math.prod(shape) or start + end > size:
        raise ValueError(f"{name} ends at byte {start + end}, the file at {size}")
    if 0 in shape:
        return Table(name, shape, dtype.name, lambda: iter(()))
    array = np.memmap(file, dtype, "r", start + begin, shape)
    blocks = _sliced(array, shape, dtype.itemsize)
    if entry["dtype"] != "BF16":
        return Table(name, shape, dtype.name, blocks)
    # A bfloat16 is the upper half of a float32.
    return Table(name, shape, "bfloat16", lambda: ((b.astype("<u4") << 16).view("<f4") for b in blocks()))


def _hdf5(path: Path) -> list[Table]:
    import h5py

    found: list[Table] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim and not item.dtype.fields:
            text = h5py.check_string_dtype(item.dtype) is not None
            if text or item.dtype.kind in "fiub":
                kind = "object" if text else item.dtype.name
                found.append(Table(name, item.shape, kind, lambda: _hdf5_blocks(path, name, text)))

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    return found


def _hdf5_blocks(path: Path, name: str, text: bool) -> Iterator[np.ndarray]:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        dataset = file[name]
        step = _step(dataset.shape, 64 if text else dataset.dtype.itemsize)
        rows = dataset.asstr() if text else dataset
        for start in range(0, dataset.shape[0], step):
            yield rows[start : start + step]


def _parquet(path: Path) -> list[Table]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise SdcError(f"cannot read {path}: parquet needs pyarrow; pip install 'sdc-hash[parquet]'") from error
    with parquet.ParquetFile(path) as file:
        columns = [_parquet_column(path, column, file.metadata.num_rows) for column in file.schema_arrow]
    return [column for column in columns if column is not None]


def _parquet_column(path: Path, column: Any, rows: int) -> Table | None:
    from pyarrow import types

    kind = column.type
    shape: tuple[int, ...] = (rows,)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        first = next(_parquet_blocks(path, column.name, 1), np.empty((0, 0)))
        kind, shape = kind.value_type, (rows, first.shape[1])
    if types.is_string(kind) or types.is_large_string(kind):
        dtype = "object"
    elif types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind):
        dtype = np.dtype(kind.to_pandas_dtype()).name
    else:
        return None
    return Table(column.name, shape, dtype, lambda: _parquet_blocks(path, column.name, _step(shape, 8)))


def _parquet_blocks(path: Path, column: str, step: int) -> Iterator[np.ndarray]:
    import pyarrow.parquet as parquet

    done = 0
    # By default whole row groups are read ahead into memory, often the whole file.
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(step, columns=[column]):
            yield _arrow_rows(batch.column(0), column, done)
            done += batch.num_rows


def _arrow_rows(values: Any, column: str, start: int) -> np.ndarray:
    """A batch of a column as (n,) or (n, d); all lists in it have the length of the first."""
    if values.null_count:
        row = start + values.is_null().to_pylist().index(True)
        raise ValueError(f"column {column} has no value in row {row}")
    if not hasattr(values, "flatten"):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    flat = values.flatten()
    lengths = np.asarray(values.value_lengths())
    odd = np.flatnonzero(lengths != lengths[0])
    if odd.size or flat.null_count:
        where = "empty values"
        if odd.size:
            where = f"{lengths[odd[0]]} values in row {start + odd[0]} and {lengths[0]} in row {start}"
        raise ValueError(f"column {column} holds {where}, expected the same number in each")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(values), int(lengths[0]))


def _vecs(dtype: np.dtype[Any]) -> Callable[[Path], list[Table]]:
    """fvecs and bvecs: each row is its length d (int32), then d values."""

    def read(path: Path) -> list[Table]:
        size = path.stat().st_size
        with path.open("rb") as file:
            (d,) = struct.unpack("<i", file.read(4))
        row_bytes = 4 + d * dtype.itemsize
        if d <= 0 or size % row_bytes:
            raise ValueError(f"{size} bytes are no whole number of rows of {d} values ({row_bytes} bytes each)")
        raw = np.memmap(path, np.uint8, "r", shape=(size // row_bytes, row_bytes))

        def rows() -> Iterator[np.ndarray]:
            step, done = _step(raw.shape, 1), 0
            for start in range(0, len(raw), step):
                block = np.ascontiguousarray(raw[start : start + step])
                odd = np.flatnonzero(block[:, :4].copy().view("<i4")[:, 0] != d)
                if odd.size:
                    raise ValueError(f"row {done + odd[0]} does not start with its length {d}")
                done += len(block)
                yield block[:, 4:].copy().view(dtype)

        return [Table("", (len(raw), d), dtype.name, rows)]

    return read


def _torch(path: Path) -> list[Table]:
    from sdc.extract.torch_dumps import read

    return read(path)


READERS: dict[str, Callable[[Path], list[Table]]] = {
    ".npy": _npy, ".npz": _npz, ".parquet": _parquet, ".safetensors": _safetensors, ".h5": _hdf5, ".hdf5": _hdf5,
    ".fvecs": _vecs(np.dtype("<f4")), ".bvecs": _vecs(np.dtype("u1")), ".pt": _torch, ".pth": _torch,
}  # fmt: skip
