"""Millions of ids in little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class Names(Sequence[str]):
    """Texts of about one length as an array of bytes, decoded as they are asked for.

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
            return [name.decode() for name in self.encoded[key].tolist()]
        name: bytes = self.encoded[key]
        return name.decode()

    def __iter__(self, step: int = 65536) -> Iterator[str]:
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    def take(self, rows: np.ndarray) -> Names:
        """The names of `rows`, in their order."""
        return Names(self.encoded[rows])
