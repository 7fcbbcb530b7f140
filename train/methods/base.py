"""What a closed-form method is, and what the settings of trained methods start from.

Trained methods: `sdc.train.methods.gradient_method`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

# The recipe that the trained methods other than SDC share, from which each one's `SETTINGS` differ. All are trained 100
# epochs, as in SDC's paper.
PUBLISHED: dict[str, Any] = {
    "space": "raw", "init": "random", "head": "linear", "hidden": 0, "norm": False,
    "epochs": 100, "patience": 0, "batch_size": 64, "lr": 1e-4, "decay_at": 0, "weight_decay": 1e-5,
    "calibration": "beta:5,5", "pairs": "halves", "loss": "l1", "quantization": "cosine",
    "quantization_weight": 1.0, "contrastive_weight": 1.0,
}  # fmt: skip


class ClosedForm(ABC):
    """A method solved at once, without gradient steps. Of a recipe it reads nothing but bits and seed."""

    sample = 200_000  # rows the solution is computed from, at most

    @abstractmethod
    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """The tensors of a `sdc.train.Model` from features (N, d) float32."""
