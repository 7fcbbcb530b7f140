"""LSH by random hyperplanes: Charikar, STOC 2002. sign(Wx), W ~ N(0, 1), no centring."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.train.methods.base import ClosedForm


class LSH(ClosedForm):
    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        planes = np.random.default_rng(seed).standard_normal((bits, features.shape[1]), dtype=np.float32)
        return {"output.weight": planes, "output.bias": np.zeros(bits, np.float32)}


METHOD = LSH()
SETTINGS: dict[str, Any] = {}
