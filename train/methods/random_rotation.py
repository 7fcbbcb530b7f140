"""The signs of randomly rotated features: centred on their mean, turned by a uniformly (Haar) distributed rotation.

One fixed rotation spreads the variance evenly over the bits, as in RaBitQ and the randomised Hadamard transform. This
is not the PCA-RR baseline of the ITQ paper (Gong and Lazebnik 2011), which rotates the K leading principal axes: no
dimension is dropped here, and nothing but the mean is estimated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.devices import decomposing
from sdc.train.methods.base import ClosedForm


class RandomRotation(ClosedForm):
    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """K ≤ d bits are the first K rows of one rotation; more bits take as many independent rotations as needed."""
        dimension, rng = features.shape[1], np.random.default_rng(seed)
        turns = [rotation(rng, min(dimension, bits - start), dimension) for start in range(0, bits, dimension)]
        weight = np.concatenate(turns)
        mean = features.mean(axis=0, dtype=np.float64)
        return {"output.weight": weight.astype(np.float32), "output.bias": (-weight @ mean).astype(np.float32)}


def rotation(rng: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    """(rows, dimension): the first rows of a Haar-distributed orthogonal matrix (Mezzadri 2007).

    QR of a Gaussian matrix is unique, and its Q uniform, only once the diagonal of R is made positive.
    """
    with decomposing(rows):
        q, r = np.linalg.qr(rng.standard_normal((dimension, rows)))
    turned: np.ndarray = (q * np.sign(np.diag(r))).T
    return turned


METHOD = RandomRotation()
SETTINGS: dict[str, Any] = {}
