"""Ids of many items as one run of UTF-8, and how rows are found by them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 1 << 18  # ids made at once


_DIGITS = 20  # of the largest row number


_COMPARED = 20_000  # ids looked at for the nearest one: those of the most similar length


@dataclass(frozen=True)
class Ids:
    """N ids as one run of UTF-8 and the N + 1 places where they begin and end; decoded when asked for.

    Bytes that are no UTF-8 (file names) survive as surrogates.
    """

    text: np.ndarray  # (bytes,) uint8
    offsets: np.ndarray  # (N + 1,) int64

    @classmethod
    def of(cls, ids: Sequence[str] | Ids) -> Ids:
        if isinstance(ids, Ids):
            return ids
        encoded = [name.encode("utf-8", "surrogateescape") for name in ids]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(name) for name in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def of_rows(cls, names: np.ndarray, rows: np.ndarray) -> Ids | None:
        """The ids of `rows` from a column of NUL-padded names, (N,) of type S; None where each is its row in digits.

        Block by block, since a hundred million ids as Python strings would take several gigabytes.
        """
        blocks = [slice(start, start + _BLOCK) for start in range(0, len(rows), _BLOCK)]
        if all((names[rows[block]] == rows[block].astype(f"S{_DIGITS}")).all() for block in blocks):
            return None
        offsets = np.zeros(len(rows) + 1, np.int64)
        for block in blocks:
            offsets[1:][block] = np.char.str_len(names[rows[block]])
        np.cumsum(offsets, out=offsets)
        text = np.empty(offsets[-1], np.uint8)
        for block in blocks:
            padded = names[rows[block]]
            raw = padded.view(np.uint8).reshape(len(padded), -1)
            text[offsets[block][0] : offsets[1:][block][-1]] = raw[raw != 0]
        return cls(text, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, positions: np.ndarray) -> list[str]:
        """The ids at `positions`."""
        starts, ends = self.offsets[positions], self.offsets[positions + 1]
        return [
            self.text[start:end].tobytes().decode("utf-8", "surrogateescape")
            for start, end in zip(starts, ends, strict=True)
        ]

    def find(self, name: str) -> int:
        """The first position that holds `name`, or -1."""
        wanted = name.encode("utf-8", "surrogateescape")
        same_length = np.flatnonzero(np.diff(self.offsets) == len(wanted))
        for start in range(0, len(same_length), _COMPARED):
            positions = same_length[start : start + _COMPARED]
            places = self.offsets[positions, None] + np.arange(len(wanted))
            equal = (self.text[places] == np.frombuffer(wanted, np.uint8)).all(axis=1)
            if equal.any():
                return int(positions[equal.argmax()])
        return -1

    def nearest(self, name: str) -> list[str]:
        """At most one id that resembles `name`."""
        difference = np.abs(np.diff(self.offsets) - len(name.encode("utf-8", "surrogateescape")))
        similar = np.argsort(difference, kind="stable")[:_COMPARED]
        return difflib.get_close_matches(name, self.take(similar), n=1)
