"""Any distribution of scipy.stats, `scipy:NAME:parameter=number,…`."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.errors import UsageError, did_you_mean
from sdc.train.calibrations.base import Calibration, InverseCdf, of_frozen
from sdc.train.calibrations.families import MOST


class Scipy(Calibration):
    def inverse(self, spec: str) -> InverseCdf:
        return _distribution(spec.partition(":")[2])


def described(frozen: Any) -> str:
    """`scipy:NAME:parameter=number,…` of a frozen distribution; parameters left to their defaults stay out."""
    distribution = getattr(frozen, "dist", None)
    name = getattr(distribution, "name", None) or ""
    if distribution is None or type(_generics().get(name)) is not type(distribution):
        raise UsageError(
            f"a calibration is a text such as 'beta:5,5' or a frozen distribution of scipy.stats such as beta(5, 5), "
            f"found {type(frozen).__name__} {name!r}: save a sample of any other one, and take 'empirical:FILE'"
        )
    names = _names(distribution)
    values = {**dict(zip(names, frozen.args, strict=False)), **frozen.kwds}
    if any(np.ndim(value) for value in values.values()):
        raise UsageError(f"the calibration scipy.stats.{name} has arrays as parameters, expected numbers")
    text = ",".join(f"{key}={float(values[key])!r}" for key in names if key in values)
    return f"scipy:{name}:{text}" if text else f"scipy:{name}"


def _distribution(text: str) -> InverseCdf:
    """The distribution that `NAME:parameter=number,…` describes."""
    name, _, listed = text.partition(":")
    generics = _generics()
    if name not in generics:
        raise UsageError(
            f"scipy.stats has no distribution {name!r}: {did_you_mean(name, generics)}"
            "expected one of its names and its parameters, such as scipy:skewnorm:a=4,scale=0.3"
        )
    names = _names(generics[name])
    try:
        pairs = [part.split("=") for part in listed.split(",")] if listed else []
        values = {key: float(number) for key, number in pairs}
    except ValueError:
        values = {"": np.nan}
    if not {*names} - {"loc", "scale"} <= {*values} <= {*names} or not all(abs(n) <= MOST for n in values.values()):
        usage = ",".join(f"{key}=NUMBER" for key in names)
        raise UsageError(
            f"calibration 'scipy:{text}': expected scipy:{name}:{usage} of numbers up to {MOST:g}; loc and scale may "
            "stay out"
        )
    return of_frozen(generics[name](**values))


def _generics() -> dict[str, Any]:
    import scipy.stats

    attributes = ((name, getattr(scipy.stats, name)) for name in dir(scipy.stats))
    return {
        name: value
        for name, value in attributes
        if isinstance(value, scipy.stats.rv_continuous | scipy.stats.rv_discrete)
    }


def _names(distribution: Any) -> list[str]:
    """The names of a distribution's parameters, in the order in which scipy takes them."""
    import scipy.stats

    shapes = [name.strip() for name in (distribution.shapes or "").split(",") if name]
    return [*shapes, "loc", *(["scale"] if isinstance(distribution, scipy.stats.rv_continuous) else [])]
