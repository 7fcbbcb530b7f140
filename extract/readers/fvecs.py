"""fvecs and bvecs, the format of SIFT1M and its kind: each row is its length d (int32), then d values."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdc.extract.readers.table import Table, block_rows


def read_fvecs(path: Path) -> list[Table]:
    """The only array of an fvecs file, float32."""
    return [_table(path, np.dtype("<f4"))]


def read_bvecs(path: Path) -> list[Table]:
    """The only array of a bvecs file, uint8."""
    return [_table(path, np.dtype("u1"))]


def _table(path: Path, dtype: np.dtype[Any]) -> Table:
    size = path.stat().st_size
    with path.open("rb") as file:
        (d,) = struct.unpack("<i", file.read(4))
    row_bytes = 4 + d * dtype.itemsize
    if d <= 0 or size % row_bytes:
        raise ValueError(f"{size} bytes are no whole number of rows of {d} values ({row_bytes} bytes each)")
    raw = np.memmap(path, np.uint8, "r", shape=(size // row_bytes, row_bytes))

    def blocks() -> Iterator[np.ndarray]:
        step = block_rows(raw.shape, 1)
        for start in range(0, len(raw), step):
            block = np.ascontiguousarray(raw[start : start + step])
            odd = np.flatnonzero(block[:, :4].copy().view("<i4")[:, 0] != d)
            if odd.size:
                raise ValueError(f"row {start + odd[0]} does not start with its length {d}")
            yield block[:, 4:].copy().view(dtype)

    return Table("", (len(raw), d), dtype.name, blocks)
