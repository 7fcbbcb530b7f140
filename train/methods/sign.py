"""The sign of the embedding itself ("binary quantization"): one bit a dimension.

Fewer bits than dimensions keep the first dimensions, as embeddings trained to be cut short (Matryoshka representation
learning, Kusupati et al. 2022) are meant to be cut; of other embeddings they are an arbitrary choice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.errors import UsageError
from sdc.train.methods.base import ClosedForm


class Sign(ClosedForm):
    sample = 1  # nothing is estimated

    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """Raises UsageError where there are more bits than dimensions."""
        dimension, bias = features.shape[1], np.zeros(bits, np.float32)
        if bits > dimension:
            raise UsageError(
                f"sign makes one bit a dimension: these features give at most --bits {dimension}, not {bits}; "
                "lsh, random-rotation and sdc make any number of bits"
            )
        if bits == dimension:
            return {"output.bias": bias}  # the features as they are
        return {"output.weight": np.eye(bits, dimension, dtype=np.float32), "output.bias": bias}


METHOD = Sign()
SETTINGS: dict[str, Any] = {}
