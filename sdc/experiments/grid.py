"""The grid of `sdc ablate`: the settings of `sdc train` that are varied, their values, and the cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sdc.errors import UsageError, unknown_name_error
from sdc.extract.store import FeatureStore
from sdc.files import fingerprint
from sdc.kernels import PAIRS
from sdc.train import Recipe, TrainSettings
from sdc.train.calibrations import CALIBRATIONS
from sdc.train.methods import CALIBRATED, METHODS, ClosedForm, load_method

Value = str | int | float | bool | None  # None where a setting has no effect

ALPHAS = "0.2,0.5,0.7,1,2,3,5,7,10,16"  # the paper's ablation of Beta(a, a), and what `default` has
# What `default` has, and one of each family. Where that has a width it is the paper's, the sd of N(0, .3), within 0.01.
FAMILIES = ",".join(text for calibration in CALIBRATIONS.values() for text in calibration.ablated)
# What can be varied without naming values, and the values that takes.
OVER = {
    "calibration": FAMILIES,
    "alpha": ALPHAS,
    "beta": ALPHAS,
    "pairs": ",".join(PAIRS),
    "batch": "32,64,128,256,512,1024",
    "lambda_q": "0,0.01,0.1,0.3,1,3",
    "method": ",".join(METHODS),
}
FIELDS = {"batch": "batch_size", "lambda_q": "quantization_weight", "alpha": "calibration", "beta": "calibration"}
# Of `sdc train`, what belongs to the ablation itself.
RESERVED = {"features", "bits", "seed", "resume", "out", "overwrite"}
RECIPE = {field.name for field in fields(Recipe)}
KINDS = {name: kind for name, kind in get_type_hints(TrainSettings).items() if name not in RESERVED}


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        features: the feature file, as it was named.
        values: of the varied settings, by the names they were varied under.
        settings: of its training.
        name: of its file; of what the result depends on, and of nothing else.
        encoded: the feature file that is encoded and evaluated, where it is not the one trained on.
        diagnosed: it is also compared with the float features' ranking, and diagnosed.
    """

    features: Path
    values: Mapping[str, Value]
    settings: TrainSettings
    name: str
    encoded: Path | None = None
    diagnosed: bool = True

    @property
    def label(self) -> str:
        """The cell in words, for the progress shown."""
        return f"{describe(self.values, self.settings.bits)}, seed {self.settings.seed}"


def describe(values: Mapping[str, Value], bits: Value = None) -> str:
    """A combination of varied settings in words, e.g. `itq, 64 bits` or `alpha 2, beta 5`."""
    words = [
        show(value) if name in ("method", "calibration", "preset") else f"{name} {show(value)}"
        for name, value in values.items()
        if value is not None
    ]
    return ", ".join(words if bits is None else [*words, f"{bits} bits"])


def show(value: Value) -> str:
    """A value as one would write it, None as nothing."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def parse_over(texts: Sequence[str]) -> dict[str, list[Value]]:
    """The values of each varied setting, from texts `NAME` or `NAME=value,…`.

    Raises:
        UsageError: an unknown setting or one varied twice, no values, a value twice, or one of another type.
    """
    over: dict[str, list[Value]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        if name not in OVER and name not in KINDS:
            raise unknown_name_error("setting to vary", name, {*OVER, *KINDS})
        if name in over:
            raise UsageError(f"--over {name} is given twice: name its values once, {name}=value,value,...")
        if not equals and name not in OVER:
            raise UsageError(f"--over {name} has no default values: name them, --over {name}=value,value,...")
        # A distribution's own parameters stand between commas too: a new value begins with a name.
        comma = r",(?=[A-Za-z][\w-]*(?:[:,]|$))" if name == "calibration" else ","
        values = [convert(name, part) for part in re.split(comma, listed if equals else OVER[name])]
        if len(set(values)) < len(values):
            raise UsageError(f"--over {text}: a value stands there twice")
        over[name] = values
    return over


def parse_fixed(texts: Sequence[str]) -> dict[str, Value]:
    """Settings of `sdc train` that are the same in every cell, from texts `NAME=value`.

    Raises:
        UsageError: an unknown setting or one given twice, or a value of another type.
    """
    fixed: dict[str, Value] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in KINDS:
            raise unknown_name_error("setting", name, KINDS)
        if name in fixed:
            raise UsageError(f"--set {name} is given twice")
        fixed[name] = convert(name, value)
    return fixed


def convert(name: str, text: str) -> Value:
    """A value of a varied or fixed setting, of the type that `sdc train` gives it.

    Raises:
        UsageError: it is not of that type.
    """
    kind: Any = float if name in ("alpha", "beta") else KINDS[FIELDS.get(name, name)]
    kind = next((part for part in get_args(kind) if part is not type(None)), kind)
    if text == "":
        raise UsageError(f"{name} has an empty value: expected {name}=value")
    try:
        value: Value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        expected = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise UsageError(f"{name} = {text!r}: expected {expected}") from None
    return value


def make_cells(
    stores: Mapping[Path, FeatureStore],
    over: Mapping[str, list[Value]],
    fixed: Mapping[str, Value],
    bits: Sequence[int],
    seeds: int,
) -> list[Cell]:
    """All cells, a whole grid for each seed in turn, so that a drift of the machine's speed touches all alike.

    Under a method that has no use for a setting this is not varied: its value is None.

    Raises:
        UsageError: a setting is fixed and varied or decided twice, or settings that `sdc train` would refuse.
        SdcError: the file of an empirical calibration is missing or holds something else.
    """
    _check_conflicts(over, fixed)
    combinations = _combinations(over, fixed)
    cells = []
    for seed, (path, store), values, length in product(range(seeds), stores.items(), combinations, bits):
        settings = TrainSettings(
            features=path, bits=length, seed=seed, **{"method": Recipe.method, **_train_fields(values, fixed)}
        )
        cells.append(Cell(path, values, settings, cell_name(settings, store.fingerprint)))
    return cells


def _check_conflicts(over: Mapping[str, list[Value]], fixed: Mapping[str, Value]) -> None:
    deciding: dict[str, str] = {}
    for name in over:
        field = FIELDS.get(name, name)
        if field in deciding and {name, deciding[field]} != {"alpha", "beta"}:
            raise UsageError(f"--over {deciding[field]} and --over {name} decide the same: vary one of them")
        deciding[field] = name
        if field in fixed and not (name == "beta" and "alpha" not in over):
            raise UsageError(f"{field} is fixed, and varied by --over {name}: leave out one of them")


def _combinations(over: Mapping[str, list[Value]], fixed: Mapping[str, Value]) -> list[dict[str, Value]]:
    distinct = []
    for combination in product(*over.values()):
        values = dict(zip(over, combination, strict=True))
        method = str(values.get("method", fixed.get("method", Recipe.method)))
        values |= dict.fromkeys(name for name in over if not _matters(FIELDS.get(name, name), method))
        if values not in distinct:
            distinct.append(values)
    return distinct


def _matters(field: str, method: str) -> bool:
    """Whether a setting of `sdc train` has an effect on a method."""
    if field == "method" or method not in METHODS or field not in RECIPE | {"preset"}:
        return True
    if isinstance(load_method(method), ClosedForm):
        return False
    return field != "calibration" or method in CALIBRATED


def _train_fields(values: Mapping[str, Value], fixed: Mapping[str, Value]) -> dict[str, Any]:
    """The fields of `TrainSettings` for a combination of values and the fixed settings."""
    settings: dict[str, Any] = dict(fixed)
    for name, value in values.items():
        if name not in ("alpha", "beta") and value is not None:
            settings[FIELDS.get(name, name)] = value
    a, b = values.get("alpha"), values.get("beta")
    if b is not None and a is None:
        a = _recorded_alpha(TrainSettings(**settings).recipe().calibration)
    if a is not None:
        settings["calibration"] = f"beta:{a:g},{a if b is None else b:g}"
    return settings


def _recorded_alpha(calibration: str) -> float:
    match = re.fullmatch(r"beta:([^,]+),.+", calibration)
    if match is None:
        raise UsageError(f"--over beta alone keeps the alpha of beta:alpha,beta, and the calibration is {calibration}")
    return float(match[1])


def cell_name(settings: TrainSettings, features: str, **further: Value) -> str:
    """The name of a cell's file: method, bits, seed, and a hash of all that its result depends on.

    Args:
        features: the fingerprint of those trained on.
        further: what it depends on beside the settings and them.
    """
    recipe = settings.recipe()
    others = settings.record(always=("train_on", "imbalance"))
    digest = fingerprint({**recipe.record(), **others, **further, "features": features})
    return f"{recipe.method}-{recipe.bits}-{recipe.seed}-{digest[:16]}"
