"""Calibration distributions: the shape the code similarities are pulled to, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdc.artifacts import UsageError, unknown

InverseCdf = Callable[[np.ndarray], np.ndarray]


def _beta(a: float, b: float) -> InverseCdf:
    from scipy.stats import beta

    if a <= 0 or b <= 0:
        raise UsageError(f"calibration beta:{a:g},{b:g}: both parameters must be positive")
    inverse: InverseCdf = beta(a, b).ppf
    return inverse


# name -> (the distribution on [0, 1], how many parameters it takes)
DISTRIBUTIONS: dict[str, tuple[Callable[..., InverseCdf], int]] = {"beta": (_beta, 2)}


def inverse_cdf(spec: str) -> InverseCdf:
    """F⁻¹ on [0, 1] of a calibration such as `beta:5,5` (the paper's, section 3).

    Raises:
        UsageError: an unknown distribution, or parameters that are not its own.
    """
    name, _, text = spec.partition(":")
    if name not in DISTRIBUTIONS:
        raise unknown("calibration", name, DISTRIBUTIONS)
    make, count = DISTRIBUTIONS[name]
    try:
        parameters = [float(part) for part in text.split(",")]
    except ValueError:
        parameters = []
    if len(parameters) != count or not all(np.isfinite(parameters)):
        raise UsageError(f"calibration {spec!r}: {name} takes {count} numbers, such as beta:5,5")
    return make(*parameters)
