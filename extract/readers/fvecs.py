"""fvecs and bvecs, the format of SIFT1M and its kind: each row is its length d (int32), then d values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdc.extract.readers.table import Table, _step


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
