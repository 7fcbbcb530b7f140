"""Spectral hashing: Weiss, Torralba and Fergus, NIPS 2008.

The features are taken as uniform on a box along their principal axes. The Laplacian's eigenfunctions on a side of
length R are cos(ω x), x from its lower end, ω = mπ/R for m = 1, 2, …, with eigenvalues that fall with ω. A code is the
signs of the K of smallest non-zero ω over all axes, and one axis may give several bits; K may exceed the dimension.

The original tries modes up to m = ⌈(K + 1)R/max R⌉ − 1 on an axis. The widest axis alone has K modes with ω ≤ Kπ/max R,
so that no other can be among the K smallest, and the bound need not be computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.errors import SdcError
from sdc.train.methods.base import ClosedForm
from sdc.train.pca import principal_axes


class SH(ClosedForm):
    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """Raises UsageError for fewer than 2 rows, SdcError where all rows are equal."""
        rows, dimension = features.shape
        mean, axes = principal_axes(features, max(1, min(bits, dimension, rows - 1)))
        projections = (features - mean) @ axes.T
        low, high = (end(axis=0).astype(np.float64) for end in (projections.min, projections.max))
        axis, frequencies = smallest_modes(high - low, bits)
        weight = (frequencies[:, None] * axes[axis]).astype(np.float32)
        return {
            "output.weight": weight,
            "output.bias": -weight @ mean,
            "cosine.phase": (-frequencies * low[axis]).astype(np.float32),
        }


def smallest_modes(ranges: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The axis (count,) and the frequency mπ/R (count,) of the smallest ones, m ≥ 1, ascending; ties by axis.

    Args:
        ranges: (A,) lengths R of the box; an axis of length 0 has no mode.

    Raises:
        SdcError: all lengths are 0.
    """
    if not ranges.max() > 0:
        raise SdcError("spectral hashing needs rows that differ: all training rows are equal")
    with np.errstate(divide="ignore"):
        frequencies = np.outer(np.pi / ranges, np.arange(1, count + 1))  # (A, count)
    order = np.argsort(frequencies, axis=None, kind="stable")[:count]
    return order // count, frequencies.ravel()[order]


METHOD = SH()
SETTINGS: dict[str, Any] = {}
