"""Named arrays in a file, read block by block, and one-line errors for files that do not hold what they should."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Table:
    """A named array in a file, which is read block by block.

    Attributes:
        name: its name in the file, empty where the format has none.
        shape: (N,) or (N, d) or more.
        dtype: a NumPy name, or "bfloat16", the blocks of which come as float32.
        blocks: reads it from its beginning, as consecutive blocks of rows.
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


@contextlib.contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turns whatever a parser makes of a bad file into a one-line error about `path`."""
    try:
        yield
    except SdcError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SdcError(f"cannot read {path}: {reason}: is it whole, and what its ending says?") from error


def block_rows(shape: tuple[int, ...], itemsize: int) -> int:
    """How many rows of an array of this shape make a block of about `BLOCK_BYTES`; at least 1."""
    return max(1, BLOCK_BYTES // max(1, itemsize * math.prod(shape[1:])))


def sliced_blocks(array: Any, shape: tuple[int, ...], itemsize: int) -> Callable[[], Iterator[np.ndarray]]:
    """The `Table.blocks` of an array that can be sliced, such as a memory map."""
    step = block_rows(shape, itemsize)
    return lambda: (np.asarray(array[start : start + step]) for start in range(0, shape[0], step))
