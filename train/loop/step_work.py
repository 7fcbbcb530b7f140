"""How much there is to compute in a step: it decides the number of threads."""

from __future__ import annotations

import numpy as np
from torch import nn


def step_work(rows: int, width: int, modules: nn.Module, tokens: np.ndarray | None = None) -> float:
    """About how many floating-point operations a step takes: products with weights, and similarities of all pairs.

    Args:
        rows: of a batch, their views included.
        width: dimensions of the features.
        modules: what is trained.
        tokens: (N, T, w), where the method compares them.
    """
    weights = sum(weight.numel() for weight in modules.parameters())
    compared = width if tokens is None else width + tokens.shape[1] ** 2 * tokens.shape[2]
    return 6.0 * rows * weights + 2.0 * rows**2 * compared
