"""The sign of the embedding itself ("binary quantization"): one bit a dimension."""

from __future__ import annotations

import numpy as np

from sdc.artifacts import UsageError
from sdc.train.methods import ClosedForm


class Sign(ClosedForm):
    sample = 1  # nothing is estimated

    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """Raises UsageError unless there are as many bits as dimensions."""
        dimension = features.shape[1]
        if bits != dimension:
            raise UsageError(
                f"sign makes one bit a dimension: these features need --bits {dimension}, not {bits}; "
                "lsh, itq and sdc make any number of bits"
            )
        return {"output.bias": np.zeros(bits, np.float32)}


METHOD = Sign()
