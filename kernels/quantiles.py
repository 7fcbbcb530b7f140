"""Target quantiles of the calibration distribution, as tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def quantile_table(inverse_cdf: Callable[[np.ndarray], np.ndarray], n: int) -> np.ndarray:
    """c_i = 2·F⁻¹((2i − 1)/(2n)) − 1 for i = 1…n (the paper's step 3).

    Args:
        inverse_cdf: F⁻¹, the quantile function of a distribution on [0, 1].
        n: how many similarities are ranked together.

    Returns:
        (n,) float32 in [−1, 1], ascending.

    Raises:
        ValueError: n < 1, or F⁻¹ leaves [0, 1] or is not ascending.
    """
    if n < 1:
        raise ValueError(f"a quantile table needs at least one entry, got n = {n}")
    levels = (2 * np.arange(1, n + 1, dtype=np.float64) - 1) / (2 * n)
    values = np.asarray(inverse_cdf(levels), dtype=np.float64)
    if values.shape != levels.shape or not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError("the inverse CDF must map (0, 1) into [0, 1]")
    if (np.diff(values) < 0).any():
        raise ValueError("the inverse CDF must not fall")
    return (2 * values - 1).astype(np.float32)
