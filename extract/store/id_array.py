"""Millions of ids in little memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

OFFSETS = "_offsets"  # ends the name of the dataset that says where packed texts begin and end
_BLOCK = 1 << 16  # ids at once
_BLOCK_BYTES = 1 << 26  # of padded ids at once


class EncodedIds(Sequence[str]):
    """The ids of N rows as bytes, UTF-8 without NUL characters; an id is decoded when it is asked for."""

    block = _BLOCK  # ids that may be copied at once

    @abstractmethod
    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int64, the bytes of the ids of `rows`."""

    @abstractmethod
    def encoded_at(self, rows: np.ndarray | slice) -> list[bytes]:
        """The ids of `rows`, in their order."""

    @abstractmethod
    def text_of(self, rows: np.ndarray) -> np.ndarray:
        """(bytes,) uint8, the ids of `rows` end to end."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> EncodedIds:
        """The ids of `rows`, in their order."""

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if isinstance(key, slice):
            return [encoded.decode() for encoded in self.encoded_at(key)]
        if not -len(self) <= key < len(self):
            raise IndexError(key)
        return self.encoded_at(np.array([key % len(self)]))[0].decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), self.block):
            yield from self[start : start + self.block]


class IdArray(EncodedIds):
    """Ids that are padded with NULs to one width: 1 byte more an id than they are long, where all are equally long.

    Args:
        encoded: (N,) of dtype S.
    """

    def __init__(self, encoded: np.ndarray) -> None:
        self.encoded = encoded
        self.block = max(1, min(_BLOCK, _BLOCK_BYTES // encoded.dtype.itemsize))

    def __len__(self) -> int:
        return len(self.encoded)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        return np.char.str_len(self.encoded[rows])

    def encoded_at(self, rows: np.ndarray | slice) -> list[bytes]:
        names: list[bytes] = self.encoded[rows].tolist()
        return names

    def text_of(self, rows: np.ndarray) -> np.ndarray:
        raw = np.ascontiguousarray(self.encoded[rows]).view(np.uint8)
        text: np.ndarray = raw[raw != 0]
        return text

    def take(self, rows: np.ndarray) -> IdArray:
        return IdArray(self.encoded[rows])


class PackedIds(EncodedIds):
    """Ids end to end: 8 bytes more an id than it is long.

    Args:
        text: (bytes,) uint8.
        offsets: (N + 1,) int64; id i is text[offsets[i]:offsets[i + 1]].
    """

    def __init__(self, text: np.ndarray, offsets: np.ndarray) -> None:
        self.text, self.offsets = text, offsets

    @classmethod
    def of(cls, encoded: Iterable[bytes]) -> PackedIds:
        """Ids from their bytes."""
        names = list(encoded)
        offsets = np.zeros(len(names) + 1, np.int64)
        np.cumsum([len(name) for name in names], out=offsets[1:])
        return cls(np.frombuffer(b"".join(names), np.uint8), offsets)

    @classmethod
    def joined(cls, parts: Sequence[PackedIds]) -> PackedIds:
        """The ids of all parts, in their order."""
        text = np.concatenate([np.empty(0, np.uint8), *(part.text for part in parts)])
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
        return cls(text, np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        lengths: np.ndarray = self.offsets[rows + 1] - self.offsets[rows]
        return lengths

    def encoded_at(self, rows: np.ndarray | slice) -> list[bytes]:
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        if not len(rows):
            return []
        if (np.diff(rows) == 1).all():
            ends = np.asarray(self.offsets[rows[0] : rows[-1] + 2])
            run = self.text[ends[0] : ends[-1]].tobytes()
            return [run[start:end] for start, end in pairwise((ends - ends[0]).tolist())]
        starts, stops = self.offsets[rows].tolist(), self.offsets[rows + 1].tolist()
        return [self.text[start:stop].tobytes() for start, stop in zip(starts, stops, strict=True)]

    def text_of(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and (np.diff(rows) == 1).all():
            return np.asarray(self.text[self.offsets[rows[0]] : self.offsets[rows[-1] + 1]])
        return np.frombuffer(b"".join(self.encoded_at(rows)), np.uint8)

    def take(self, rows: np.ndarray) -> PackedIds:
        return PackedIds.of(self.encoded_at(rows))


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
