"""Which items of db.bin were removed, and how the positions of the others are counted."""

from __future__ import annotations

import numpy as np


class Tombstones:
    """What was removed, and the way from stored positions (of db.bin) to positions (removed items not counted).

    Attributes:
        removed: (r,) stored positions, ascending.
    """

    def __init__(self, removed: np.ndarray) -> None:
        self.removed = removed
        self._shifted = removed - np.arange(len(removed))
        self._ended = np.append(removed, np.iinfo(np.int64).max)  # spares a comparison with the length

    def __len__(self) -> int:
        return len(self.removed)

    def stored(self, positions: np.ndarray) -> np.ndarray:
        """The stored positions of positions."""
        if not len(self):
            return positions
        stored: np.ndarray = positions + np.searchsorted(self._shifted, positions, side="right")
        return stored

    def merged(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions of stored positions, and which of these are removed and have none, both in one pass."""
        if not len(self):
            return stored, np.zeros(stored.shape, bool)
        before = np.searchsorted(self.removed, stored)
        return stored - before, self._ended[before] == stored


NO_TOMBSTONES = Tombstones(np.empty(0, np.int64))
