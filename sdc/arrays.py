"""What all stages do with rows of vectors: lengths, directions, codes of signs, and samples of them."""

from __future__ import annotations

from typing import Any

import numpy as np

# (256, 8) float32, the bits of each value of a byte as ±1: +1 for a 1.
BYTE_SIGNS = np.where((np.arange(256)[:, None] >> np.arange(8)) & 1, 1, -1).astype(np.float32)


def row_lengths(vectors: np.ndarray) -> np.ndarray:
    """The rows' lengths; 1 for a row of zeros."""
    lengths: np.ndarray = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    lengths[lengths == 0] = 1
    return lengths


def unit_rows(vectors: np.ndarray, dtype: type[np.floating[Any]] = np.float64) -> np.ndarray:
    """The rows at unit length, computed in `dtype`, a new array of it; a row of zeros stays."""
    x = vectors.astype(dtype, order="C")  # in any other order the sums would have other last digits
    x /= row_lengths(x)[:, None]
    return x


def directions(vectors: np.ndarray) -> np.ndarray:
    """The rows at unit length, float32, computed in double precision: of equal directions all bits agree."""
    return unit_rows(vectors).astype(np.float32)


def pack_signs(outputs: np.ndarray) -> np.ndarray:
    """Codes (N, bits // 8) uint8: bit j is [output j > 0], in byte j // 8, least significant first."""
    return np.packbits(outputs > 0, axis=1, bitorder="little")


def evenly_spread(count: int, most: int) -> np.ndarray:
    """`most` places at most, int64, evenly spread over `count`, ascending."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
