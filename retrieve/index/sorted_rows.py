"""Where row numbers stand in an ascending array of them."""

from __future__ import annotations

import numpy as np


def look_up(ascending: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The position of each value, and whether it is there at all; the position of another one means nothing.

    Args:
        ascending: (N,) distinct numbers.
        values: numbers of any shape.
    """
    positions = np.searchsorted(ascending, values)
    if not len(ascending):
        return positions, np.zeros(values.shape, bool)
    return positions, ascending[np.minimum(positions, len(ascending) - 1)] == values


def among(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Which values are in `ascending`."""
    return look_up(ascending, values)[1]


def own_positions(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """(Q,) the position of each query's own row in the database, or −1.

    Args:
        queries: (Q,) rows of feats.h5.
        database: (N,) likewise, ascending.
    """
    positions, present = look_up(database, queries)
    return np.where(present, positions, -1)
