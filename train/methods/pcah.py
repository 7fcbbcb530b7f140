"""PCA hashing: the signs of the K leading principal components, each cut at its mean.

The baseline "PCA, nonorthogonal or direct" of Gong and Lazebnik, CVPR 2011, after Wang, Kumar and Chang, CVPR 2010.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.train.methods.base import ClosedForm
from sdc.train.pca import principal_axes


class PCAH(ClosedForm):
    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """Raises UsageError where there are fewer dimensions, or fewer rows, than bits."""
        mean, axes = principal_axes(features, bits)
        return {"output.weight": axes, "output.bias": -axes @ mean}


METHOD = PCAH()
SETTINGS: dict[str, Any] = {}
