"""Families of distributions with positive numbers as parameters, `NAME:number,…`."""

from __future__ import annotations

from collections.abc import Callable

from sdc.errors import UsageError
from sdc.train.calibrations.base import Calibration, InverseCdf, of_frozen

LEAST, MOST = 1e-6, 1e6  # of any parameter; beyond these scipy's quantiles lose their digits


class Family(Calibration):
    """A family.

    Args:
        parameters: their names, separated by commas.
        make: F⁻¹ on [0, 1] from their values.
        ablated: the texts of it that `sdc ablate` compares.
    """

    def __init__(self, parameters: str, make: Callable[..., InverseCdf], ablated: tuple[str, ...] = ()) -> None:
        self.parameters, self.make, self.ablated = parameters, make, ablated

    def inverse(self, spec: str) -> InverseCdf:
        return self.make(*_numbers(spec, self.parameters))


class Binomial(Family):
    """The similarities of independent, uniform codes; without a number, of codes of the run's own length."""

    def canonical(self, spec: str, bits: int) -> str:
        return super().canonical(f"binomial:{bits}" if spec == "binomial" else spec, bits)


def _numbers(spec: str, usage: str) -> list[float]:
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


def _named(name: str, *shapes: float, loc: float = 0, scale: float = 1) -> InverseCdf:
    """A distribution of scipy.stats."""
    import scipy.stats

    return of_frozen(getattr(scipy.stats, name)(*shapes, loc=loc, scale=scale))


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


FAMILIES: dict[str, Family] = {
    "beta": Family("a,b", lambda a, b: _named("beta", a, b), ("beta:16,16", "beta:5,5")),
    "gaussian": Family("sd", lambda sd: _named("norm", scale=sd), ("gaussian:0.3",)),
    "truncnorm": Family("sd", lambda sd: _named("truncnorm", -1 / sd, 1 / sd, scale=sd), ("truncnorm:0.3",)),
    "laplace": Family("scale", lambda scale: _named("laplace", scale=scale), ("laplace:0.22",)),
    "logistic": Family("scale", lambda scale: _named("logistic", scale=scale), ("logistic:0.165",)),
    "student-t": Family("df,scale", lambda df, scale: _named("t", df, scale=scale), ("student-t:5,0.24",)),
    "kumaraswamy": Family("a,b", _kumaraswamy, ("kumaraswamy:3.5,7.1",)),
    "uniform": Family("", lambda: _named("uniform"), ("uniform",)),
    "arcsine": Family("", lambda: _named("arcsine"), ("arcsine",)),
    "binomial": Binomial("K", _binomial, ("binomial",)),
}
