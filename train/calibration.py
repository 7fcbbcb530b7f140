"""Calibration distributions: the shape the code similarities are pulled to, by name.

A calibration is a text, the form in which a model records it, or a frozen distribution of scipy.stats, which is
turned into such a text. Its quantile function maps [0, 1] to [0, 1]; a similarity is s = 2·F⁻¹(u) − 1 (the paper's
section 3). A distribution inside [0, 1] is taken as this F, as in the paper's Beta(5, 5). Any other one is a
distribution of the similarity itself, as in the paper's N(0, .3), whose tails beyond [−1, 1] are set to ±1.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, unknown_name_error
from sdc.train.similarity_file import read_similarities

InverseCdf = Callable[[np.ndarray], np.ndarray]

LINEAR = "linear"  # no distribution: the features' own similarities, see `sdc.train.linear_scaling`
LEAST, MOST = 1e-6, 1e6  # of any parameter; beyond these scipy's quantiles lose their digits


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
    spec = calibration if isinstance(calibration, str) else _described(calibration)
    name, _, text = spec.partition(":")
    if name == "empirical":
        inverse = _empirical(spec)
    elif name == "scipy":
        inverse = _scipy(text)
    elif name in DISTRIBUTIONS:
        usage, make = DISTRIBUTIONS[name]
        inverse = make(*_parameters(spec, usage))
    elif name == LINEAR:
        raise UsageError(f"calibration {spec!r}: linear takes no parameters, and scales each batch by itself: no F⁻¹")
    else:
        raise unknown_name_error("calibration", name, [*DISTRIBUTIONS, "empirical", LINEAR, "scipy"])
    return _checked(spec, inverse)


def canonical(calibration: str | Any, bits: int) -> str:
    """The text under which a model records a calibration, once it is known to be usable.

    `binomial` takes the run's own bits, a frozen distribution becomes `scipy:NAME:…`, and `empirical:FILE` is sealed
    with the file's checksum, `empirical:FILE#CHECKSUM`, so that a file that changes is another setting. Such a sealed
    text is returned as it is, without the file, which a model outlives.

    Args:
        calibration: as `inverse_cdf` takes it, `binomial` or `linear`.
        bits: K of the run.

    Raises:
        UsageError, SdcError: as `inverse_cdf`.
    """
    spec = calibration if isinstance(calibration, str) else _described(calibration)
    if spec == "binomial":
        spec = f"binomial:{bits}"
    if spec == LINEAR:
        return spec
    if spec.startswith("empirical:"):
        path, seal = _sealed(spec)
        if seal:
            return spec
        spec = f"{spec}#{read_similarities(path)[1]}"
    inverse_cdf(spec)
    return spec


def _checked(spec: str, inverse: InverseCdf) -> InverseCdf:
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


# Families with positive parameters


def _named(name: str, *shapes: float, loc: float = 0, scale: float = 1) -> InverseCdf:
    import scipy.stats

    return _of_frozen(getattr(scipy.stats, name)(*shapes, loc=loc, scale=scale))


def _of_frozen(frozen: Any) -> InverseCdf:
    """F⁻¹ on [0, 1]: the distribution's own where it lies inside, else that of a distribution of the similarity."""
    low, high = frozen.support()
    if low >= 0 and high <= 1:
        inverse: InverseCdf = frozen.ppf
        return inverse
    return lambda levels: (frozen.ppf(levels) + 1) / 2


def _binomial(bits: float) -> InverseCdf:
    """1 − h/K of the Hamming distance h ~ B(K, ½), which is distributed as h/K."""
    if bits != int(bits):
        raise UsageError(f"calibration 'binomial:{bits:g}': K is a number of bits, such as binomial:64")
    from scipy.stats import binom

    frozen = binom(int(bits), 0.5)
    return lambda levels: frozen.ppf(levels) / bits


def _kumaraswamy(a: float, b: float) -> InverseCdf:
    """Kumaraswamy, J. Hydrology 1980, F(x) = 1 − (1 − x^a)^b: the a-th root of a Beta(1, b) variable."""
    powers = _named("beta", 1, b)
    return lambda levels: powers(levels) ** (1 / a)


# name -> (the names of its parameters, the distribution)
DISTRIBUTIONS: dict[str, tuple[str, Callable[..., InverseCdf]]] = {
    "arcsine": ("", lambda: _named("arcsine")),
    "beta": ("a,b", lambda a, b: _named("beta", a, b)),
    "binomial": ("K", _binomial),
    "gaussian": ("sd", lambda sd: _named("norm", scale=sd)),
    "kumaraswamy": ("a,b", _kumaraswamy),
    "laplace": ("scale", lambda scale: _named("laplace", scale=scale)),
    "logistic": ("scale", lambda scale: _named("logistic", scale=scale)),
    "student-t": ("df,scale", lambda df, scale: _named("t", df, scale=scale)),
    "truncnorm": ("sd", lambda sd: _named("truncnorm", -1 / sd, 1 / sd, scale=sd)),
    "uniform": ("", lambda: _named("uniform")),
}


def _parameters(spec: str, usage: str) -> list[float]:
    """The numbers of `NAME:number,…`, as many as `usage` names."""
    name, colon, text = spec.partition(":")
    count = len(usage.split(",")) if usage else 0
    try:
        numbers = [float(part) for part in text.split(",")] if colon else []
    except ValueError:
        numbers = []
    if len(numbers) != count or (colon and not count):
        takes = f"{count} number{'s' if count > 1 else ''}, {name}:{usage}" if count else "no parameters"
        raise UsageError(f"calibration {spec!r}: {name} takes {takes}")
    if not all(LEAST <= number <= MOST for number in numbers):
        raise UsageError(
            f"calibration {spec!r}: what {name}:{usage} takes must be positive, from {LEAST:g} to {MOST:g}"
        )
    return numbers


# Any distribution of scipy.stats


def _described(frozen: Any) -> str:
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


def _scipy(text: str) -> InverseCdf:
    """The distribution that `NAME:parameter=number,…` describes."""
    name, _, listed = text.partition(":")
    generics = _generics()
    if name not in generics:
        near = difflib.get_close_matches(name, generics, n=1)
        raise UsageError(
            f"scipy.stats has no distribution {name!r}: {f'did you mean {near[0]!r}? ' if near else ''}"
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
    return _of_frozen(generics[name](**values))


def _generics() -> dict[str, Any]:
    import scipy.stats

    found = ((name, getattr(scipy.stats, name)) for name in dir(scipy.stats))
    return {
        name: value for name, value in found if isinstance(value, scipy.stats.rv_continuous | scipy.stats.rv_discrete)
    }


def _names(distribution: Any) -> list[str]:
    """The names of a distribution's parameters, in the order in which scipy takes them."""
    import scipy.stats

    shapes = [name.strip() for name in (distribution.shapes or "").split(",") if name]
    return [*shapes, "loc", *(["scale"] if isinstance(distribution, scipy.stats.rv_continuous) else [])]


# The quantiles of similarities in a file


def _empirical(spec: str) -> InverseCdf:
    """Hazen's quantiles, of which the table of as many levels as there are values is the sorted values themselves."""
    path, seal = _sealed(spec)
    values, found = read_similarities(path)
    if seal and found != seal:
        raise SdcError(
            f"{path} has changed since {spec!r} was recorded; give back the former file, or name the new one"
        )
    return lambda levels: (np.quantile(values, levels, method="hazen") + 1) / 2


def _sealed(spec: str) -> tuple[Path, str]:
    """The file of `empirical:FILE` or `empirical:FILE#CHECKSUM`, and the checksum or nothing."""
    parts = re.fullmatch(r"empirical:(.+?)(?:#([0-9a-f]{16}))?", spec)
    if parts is None:
        raise UsageError(
            f"calibration {spec!r}: expected empirical:FILE, similarities in [-1, 1] as npy or text, one number a line"
        )
    return Path(parts[1]), parts[2] or ""
