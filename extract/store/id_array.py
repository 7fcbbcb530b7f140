"""Millions of ids in little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class IdArray(Sequence[str]):
    """The ids of N rows as an array of bytes; an id is decoded when it is asked for.

    Args:
        encoded: (N,) of dtype S, UTF-8 without NUL characters.
    """

    def __init__(self, encoded: np.ndarray) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if isinstance(key, slice):
            return [encoded.decode() for encoded in self.encoded[key].tolist()]
        encoded: bytes = self.encoded[key]
        return encoded.decode()

    def __iter__(self, step: int = 65536) -> Iterator[str]:
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    def take(self, rows: np.ndarray) -> IdArray:
        """The ids of `rows`, in their order."""
        return IdArray(self.encoded[rows])


class RowNumberIds(Sequence[str]):
    """The ids "0", "1", ... of `n` rows that have no ids of their own; made when they are asked for."""

    def __init__(self, n: int) -> None:
        self._rows = range(n)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        rows = self._rows[key]
        return str(rows) if isinstance(rows, int) else [str(row) for row in rows]

    def __iter__(self) -> Iterator[str]:
        return map(str, self._rows)
