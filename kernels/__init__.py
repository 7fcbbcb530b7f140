"""`sdc.kernels`: the calibration loss, for any training loop (see `calibration_loss`)."""

from sdc.kernels.functional import Loss, calibration_loss, sample_length
from sdc.kernels.quantiles import quantile_table

__all__ = ["Loss", "calibration_loss", "quantile_table", "sample_length"]
