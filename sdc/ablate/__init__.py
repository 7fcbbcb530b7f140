"""A grid of settings of training, each cell of which is evaluated and diagnosed; tables and figures of it."""

from sdc.ablate.run import AblateSettings, ablate

__all__ = ["AblateSettings", "ablate"]
