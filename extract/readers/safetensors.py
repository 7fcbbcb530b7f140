"""safetensors files, bfloat16 included."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from sdc.extract.readers.single_rows import gather_rows
from sdc.extract.readers.table import Table, sliced_blocks, unreadable

SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def read_safetensors(path: Path) -> list[Table]:
    """The tensors that have rows; a tensor a row is read as rows."""
    # Read here rather than by the library: its NumPy side knows no bfloat16, what embeddings often come in.
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size:
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tables = {name: _tensor(file, name, entry, 8 + length, size) for name, entry in header.items()}

    def read_all(names: Sequence[str]) -> Iterator[np.ndarray]:
        return (tables[name].read() for name in names)

    return gather_rows([*tables.values()], read_all)


def _tensor(file: IO[bytes], name: str, entry: dict[str, Any], start: int, size: int) -> Table:
    shape = tuple(entry["shape"])
    if entry["dtype"] not in SAFETENSORS:
        return unreadable(name, shape, entry["dtype"], f"is of the type {entry['dtype']}, which is not read")
    dtype = np.dtype(SAFETENSORS[entry["dtype"]])
    begin, end = entry["data_offsets"]
    if end - begin != dtype.itemsize * math.prod(shape) or start + end > size:
        raise ValueError(f"{name} ends at byte {start + end}, the file at {size}")
    if 0 in shape or not shape:
        return Table(name, shape, dtype.name, lambda: iter(()))
    array = np.memmap(file, dtype, "r", start + begin, shape)
    blocks = sliced_blocks(array, shape, dtype.itemsize)
    if entry["dtype"] != "BF16":
        return Table(name, shape, dtype.name, blocks)
    # A bfloat16 is the upper half of a float32.
    return Table(name, shape, "bfloat16", lambda: ((b.astype("<u4") << 16).view("<f4") for b in blocks()))
