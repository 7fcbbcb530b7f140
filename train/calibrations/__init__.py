"""Calibrations: the distributions that code similarities are pulled to, by name."""

from sdc.train.calibrations.base import Calibration, InverseCdf
from sdc.train.calibrations.families import Family
from sdc.train.calibrations.linear import LINEAR
from sdc.train.calibrations.registry import CALIBRATIONS, canonical, inverse_cdf

__all__ = ["CALIBRATIONS", "LINEAR", "Calibration", "Family", "InverseCdf", "canonical", "inverse_cdf"]
