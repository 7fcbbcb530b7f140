"""Calibrations by name: the shape the code similarities are pulled to.

A calibration is a text, the form in which a model records it, or a frozen distribution of scipy.stats, which is
turned into such a text. Its quantile function maps [0, 1] to [0, 1]; a similarity is s = 2·F⁻¹(u) − 1 (the paper's
section 3). A distribution inside [0, 1] is taken as this F, as in the paper's Beta(5, 5). Any other one is a
distribution of the similarity itself, as in the paper's N(0, .3), whose tails beyond [−1, 1] are set to ±1.

A new calibration is a `Calibration` and a line in `CALIBRATIONS`.
"""

from __future__ import annotations

from typing import Any

from sdc.errors import unknown_name_error
from sdc.train.calibrations.base import Calibration, InverseCdf, checked
from sdc.train.calibrations.empirical import Empirical
from sdc.train.calibrations.families import FAMILIES
from sdc.train.calibrations.linear import LINEAR, Linear
from sdc.train.calibrations.scipy_stats import Scipy, described

CALIBRATIONS: dict[str, Calibration] = {**FAMILIES, LINEAR: Linear(), "empirical": Empirical(), "scipy": Scipy()}


def inverse_cdf(calibration: str | Any) -> InverseCdf:
    """F⁻¹ on [0, 1] of a calibration.

    Args:
        calibration: one of
            `beta:a,b`, `kumaraswamy:a,b`, `arcsine`, `uniform`: on [0, 1];
            `gaussian:sd`, `laplace:scale`, `logistic:scale`, `student-t:df,scale`: of the similarity, around 0, with
            the tails beyond ±1 set to ±1;
            `truncnorm:sd`: of the similarity, the normal distribution on condition of [−1, 1];
            `binomial:K`: of the similarity of two independent, uniform codes of K bits;
            `empirical:FILE`: the similarities in a file, npy or text with one number a line;
            `scipy:NAME:parameter=number,…`: any distribution of scipy.stats, e.g. `scipy:skewnorm:a=4,scale=0.3`;
            or a frozen distribution of scipy.stats, e.g. `scipy.stats.beta(2, 3)`.

    Returns:
        A function of ascending levels in [0, 1], whose values are finite, in [0, 1] and do not fall; it raises
        UsageError where SciPy cannot compute such values.

    Raises:
        UsageError: an unknown distribution, parameters that are not its own, or all quantiles the same.
        SdcError: the file is missing, has changed, or holds something else than similarities.
    """
    spec = calibration if isinstance(calibration, str) else described(calibration)
    return checked(spec, _calibration(spec).inverse(spec))


def canonical(calibration: str | Any, bits: int) -> str:
    """The text under which a model records a calibration, once it is known to be usable.

    `binomial` takes the run's own bits, a frozen distribution becomes `scipy:NAME:…`, and `empirical:FILE` is sealed
    with the file's checksum, `empirical:FILE#CHECKSUM`, so that a file that changes is another setting.

    Args:
        calibration: as `inverse_cdf` takes it, `binomial` or `linear`.
        bits: K of the run.

    Raises:
        UsageError, SdcError: as `inverse_cdf`.
    """
    spec = calibration if isinstance(calibration, str) else described(calibration)
    return _calibration(spec).canonical(spec, bits)


def _calibration(spec: str) -> Calibration:
    name = spec.partition(":")[0]
    if name not in CALIBRATIONS:
        raise unknown_name_error("calibration", name, CALIBRATIONS)
    return CALIBRATIONS[name]
