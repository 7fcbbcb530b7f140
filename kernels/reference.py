"""The calibration loss in float64 and plain loops: what every implementation is compared with.

Slow on purpose. Tests and benchmarks import it, the product never does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Reference(NamedTuple):
    calibration: float
    quantization: float
    gradient: np.ndarray  # (B, K): d(calibration + weight · quantization)/d outputs


def rank_samples(features: np.ndarray, pairs: str) -> list[list[tuple[int, int]]]:
    """Each sample's pairs (i, j), ascending by the features' similarity, ties in the order of the pairs."""
    x = np.asarray(features, dtype=np.float64)
    b = len(x)
    if pairs == "rows":
        samples = [[(i, j) for j in range(b) if j != i] for i in range(b)]
    elif pairs == "halves":
        samples = [[(i, i + b // 2) for i in range(b // 2)]]
    else:
        samples = [[(i, j) for i in range(b) for j in range(i + 1, b)]]
    return [sorted(sample, key=lambda pair: float(x[pair[0]] @ x[pair[1]])) for sample in samples]


def calibration_loss(
    features: np.ndarray,
    outputs: np.ndarray,
    quantiles: np.ndarray,
    *,
    pairs: str = "rows",
    loss: str = "l1",
    quantization: str = "cosine",
    quantization_weight: float = 1.0,
    ranking: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> Reference:
    """The loss of `sdc.kernels.calibration_loss` and its gradient, term by term.

    Args:
        features: (B, d), rows l2-normalised.
        outputs: (B, K), raw.
        quantiles: (n,) targets, n the length of a sample.
        ranking: the samples' pairs in ascending order, where an implementation's own ranks are to be
            taken; computed from the features otherwise.
    """
    z = np.asarray(outputs, dtype=np.float64)
    q = np.asarray(quantiles, dtype=np.float64)
    b = len(z)
    h = np.zeros_like(z)
    norms = [max(math.sqrt(float(row @ row)), 1e-12) for row in z]
    for i in range(b):
        h[i] = z[i] / norms[i]
    samples = ranking if ranking is not None else rank_samples(features, pairs)
    count = sum(len(sample) for sample in samples)
    calibration, dh = 0.0, np.zeros_like(z)
    for sample in samples:
        for rank, (i, j) in enumerate(sample):
            value, slope = _pair_loss(float(h[i] @ h[j]) - q[rank], loss)
            calibration += value / count
            dh[i] += slope / count * h[j]
            dh[j] += slope / count * h[i]
    term, dz = _quantization(z, quantization)
    gradient = quantization_weight * dz
    for i in range(b):
        radial = float(dh[i] @ h[i]) if norms[i] > 1e-12 else 0.0
        gradient[i] += (dh[i] - radial * h[i]) / norms[i]
    return Reference(calibration, term, gradient)


def _pair_loss(difference: float, loss: str) -> tuple[float, float]:
    sign = float(np.sign(difference))
    if loss == "l1":
        return abs(difference), sign
    if loss == "l2":
        return difference * difference, 2 * difference
    return max(difference, 0.0), max(sign, 0.0)


def _quantization(z: np.ndarray, kind: str) -> tuple[float, np.ndarray]:
    """Step 5 of the paper and its variants: the term, averaged, and its gradient (B, K)."""
    b, k = z.shape
    total, gradient = 0.0, np.zeros_like(z)
    for i in range(b):
        s = np.sign(z[i])
        if kind == "cosine":
            norm = max(math.sqrt(float(z[i] @ z[i])), 1e-12)
            cosine = float(np.abs(z[i]).sum()) / (norm * math.sqrt(k))
            total += (1 - cosine) / b
            radial = cosine * z[i] / norm**2 if norm > 1e-12 else 0.0
            gradient[i] = -(s / (norm * math.sqrt(k)) - radial) / b
        else:
            power = {"l1": 1, "l2": 2, "cubic": 3}[kind]
            gap = z[i] - s
            total += float((np.abs(gap) ** power).sum()) / (b * k)
            gradient[i] = power * np.abs(gap) ** (power - 1) * np.sign(gap) / (b * k)
    return total, gradient
