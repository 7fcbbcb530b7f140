"""What a calibration is: a distribution of code similarities, by a text such as `beta:5,5`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from sdc.errors import UsageError

InverseCdf = Callable[[np.ndarray], np.ndarray]


class Calibration(ABC):
    """A kind of calibration, by the name before the colon of its texts.

    Attributes:
        ablated: the texts that stand for it in `sdc ablate --over calibration`.
    """

    ablated: tuple[str, ...] = ()

    @abstractmethod
    def inverse(self, spec: str) -> InverseCdf:
        """F⁻¹ on [0, 1] that a whole text describes, unchecked.

        Raises:
            UsageError: it is not of the form that this calibration takes.
        """

    def canonical(self, spec: str, bits: int) -> str:
        """The text under which a model of `bits` bits records it, once it is known to be usable."""
        checked(spec, self.inverse(spec))
        return spec


def checked(spec: str, inverse: InverseCdf) -> InverseCdf:
    """The same F⁻¹, which refuses values that are no quantiles; it must not be constant.

    Raises:
        UsageError: all quantiles are the same.
    """

    def bounded(levels: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # what comes of it is looked at
            values: np.ndarray = np.clip(np.asarray(inverse(levels), np.float64), 0, 1)
        if not np.isfinite(values).all():
            raise UsageError(f"calibration {spec!r}: these parameters give quantiles that are not numbers")
        if (np.diff(values) < 0).any():
            raise UsageError(f"calibration {spec!r}: the quantiles of these parameters cannot be computed, they fall")
        return values

    values = bounded((np.arange(100) + 0.5) / 100)
    if values[0] == values[-1]:
        raise UsageError(
            f"calibration {spec!r}: its quantiles are all the similarity {2 * values[0] - 1:g}; expected a "
            "distribution spread over [0, 1], or over the similarities' [-1, 1]"
        )
    return bounded


def of_frozen(frozen: Any) -> InverseCdf:
    """F⁻¹ on [0, 1]: the distribution's own where it lies inside, else that of a distribution of the similarity."""
    low, high = frozen.support()
    if low >= 0 and high <= 1:
        inverse: InverseCdf = frozen.ppf
        return inverse
    return lambda levels: (frozen.ppf(levels) + 1) / 2
