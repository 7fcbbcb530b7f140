"""ITQ: iterative quantization, Gong and Lazebnik, CVPR 2011.

PCA to K dimensions, then the rotation R that brings the projections V nearest to their signs: alternately
B = sign(VR) and R the orthogonal Procrustes solution, 50 times from a seeded
random rotation. (FAISS' ITQMatrix is not used: its quantization error does not fall at every step.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.devices import decomposing
from sdc.train.methods.base import ClosedForm
from sdc.train.pca import principal_axes


class ITQ(ClosedForm):
    iterations = 50

    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """Raises UsageError where there are fewer dimensions, or fewer rows, than bits."""
        mean, axes = principal_axes(features, bits)
        rotation = self.rotation((features - mean) @ axes.T, seed)
        weight = (rotation @ axes).astype(np.float32)
        return {"output.weight": weight, "output.bias": -weight @ mean}

    def rotation(self, projections: np.ndarray, seed: int) -> np.ndarray:
        """R (K, K), orthogonal: sign(R v) is the code of a centred projection v (K,)."""
        from scipy.linalg import orthogonal_procrustes

        bits = projections.shape[1]
        with decomposing(bits):
            turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((bits, bits)))[0].astype(np.float32)
            for _ in range(self.iterations):
                turn, _ = orthogonal_procrustes(projections, np.sign(projections @ turn))
        return np.ascontiguousarray(turn.T)


METHOD = ITQ()
SETTINGS: dict[str, Any] = {}
