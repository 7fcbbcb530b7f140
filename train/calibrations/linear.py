"""No distribution: the features' own similarities, scaled; see `sdc.train.linear_scaling`."""

from __future__ import annotations

from sdc.errors import UsageError
from sdc.train.calibrations.base import Calibration, InverseCdf

LINEAR = "linear"


class Linear(Calibration):
    ablated = (LINEAR,)

    def inverse(self, spec: str) -> InverseCdf:
        raise UsageError(f"calibration {spec!r}: linear takes no parameters, and scales each batch by itself: no F⁻¹")

    def canonical(self, spec: str, bits: int) -> str:
        return spec if spec == LINEAR else super().canonical(spec, bits)
