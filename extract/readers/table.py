"""Named arrays in a file, read block by block, and one-line errors for files that do not hold what they should."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, shortened

BLOCK_BYTES = 8 << 20

# What arrays are usually called, by what they are for. In any case (ID, Labels); the first of several is taken.
USUAL_NAMES = {
    "vectors": ("features", "embeddings", "vectors", "feature", "embedding", "vector"),
    "ids": ("ids", "id"),
    "labels": ("labels", "label"),
    "labels_coarse": ("labels_coarse", "label_coarse", "coarse_labels", "coarse_label"),
    "texts": ("texts", "text"),
}


class ContentError(Exception):
    """A file is whole, but something in it cannot be taken. The message names it and says what to do."""


@dataclass(frozen=True)
class Table:
    """A named array in a file, which is read block by block.

    Attributes:
        name: its name in the file, empty where the format has none.
        shape: (N,) or (N, d) or more.
        dtype: a NumPy name, "object" of texts, or "bfloat16", the blocks of which come as float32; where it cannot be
            read, what the file calls it.
        blocks: reads it from its beginning, as consecutive blocks of rows.
        problem: why it cannot be read, such as "holds Python objects: save …"; empty where it can.
        classes: of a column of class numbers, the names of classes 0, 1, 2, … where the file has them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    blocks: Callable[[], Iterator[np.ndarray]]
    problem: str = ""
    classes: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        """What an array of its name is usually for, a key of `USUAL_NAMES`; empty where the name says nothing."""
        name = self.leaf.lower()
        roles = (role for role, names in USUAL_NAMES.items() if name in names)
        return next(roles, "vectors" if re.sub(r"[\W_]*\*$", "", name) in USUAL_NAMES["vectors"] else "")

    @property
    def leaf(self) -> str:
        """The last part of its name."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def floating(self) -> bool:
        return self.dtype.startswith(("float", "bfloat")) and not self.problem

    @property
    def numeric(self) -> bool:
        return self.floating or (self.dtype.startswith(("int", "uint")) and not self.problem)

    def __str__(self) -> str:
        kind = "text" if self.dtype == "object" and not self.problem else self.dtype
        return f"{self.name or 'array'} {self.shape} {kind}"

    def read(self) -> np.ndarray:
        """All of it, in memory."""
        return np.concatenate([*self.blocks()]) if 0 not in self.shape else np.empty(self.shape)


@dataclass(frozen=True)
class Source:
    """What a user named, as tables.

    Attributes:
        name: what to call it in messages.
        files: in the order of their rows.
        tables: of the file, or of all files one after the other.
    """

    name: str
    files: list[Path]
    tables: list[Table]


def unreadable(name: str, shape: tuple[int, ...], dtype: str, problem: str) -> Table:
    """A table that can only be named: reading its blocks raises ContentError with the problem."""

    def refuse() -> Iterator[np.ndarray]:
        raise ContentError(f"{name or 'it'} {problem}")

    return Table(name, shape, dtype, refuse, problem)


@contextlib.contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turns whatever a parser makes of a bad file into a one-line error about `path`."""
    try:
        yield
    except (SdcError, MemoryError):
        raise
    except Exception as error:
        if _is_lfs_pointer(path):
            raise SdcError(f"cannot read {path}: it is a pointer of Git LFS, not the file: `git lfs pull`") from error
        reason = shortened(" ".join(str(error).split()) or type(error).__name__, 160)
        raise SdcError(f"cannot read {path}: {reason}{'' if _is_whole(error) else WHOLE}") from error


LFS = b"version https://git-lfs"
WHOLE = ": is it whole, and what its ending says?"


def _is_lfs_pointer(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(LFS)) == LFS
    return False


def _is_whole(error: Exception) -> bool:
    """Whether the file may well be what it should: the content, the system or a library refused it."""
    if isinstance(error, (ContentError, NotImplementedError, ImportError)):
        return True
    return isinstance(error, OSError) and error.errno is not None


def block_rows(shape: tuple[int, ...], itemsize: int) -> int:
    """How many rows of an array of this shape make a block of about `BLOCK_BYTES`; at least 1."""
    return max(1, BLOCK_BYTES // max(1, itemsize * math.prod(shape[1:])))


def sliced_blocks(array: Any, shape: tuple[int, ...], itemsize: int) -> Callable[[], Iterator[np.ndarray]]:
    """The `Table.blocks` of an array that can be sliced, such as a memory map."""
    step = block_rows(shape, itemsize)
    return lambda: (np.asarray(array[start : start + step]) for start in range(0, shape[0], step))
