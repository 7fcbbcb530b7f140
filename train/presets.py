"""Presets of recipes, and the recipe that a preset, a method and a user's settings make together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from sdc.devices import MOST_SEED
from sdc.errors import UsageError, unknown_name_error
from sdc.settings import checked_value
from sdc.train.calibrations import canonical
from sdc.train.methods import CALIBRATED, METHODS, published_settings
from sdc.train.recipe import Recipe

# `default` was chosen on held-out training rows of Fashion-MNIST (see the README's table), at 16 to 128 bits alike.
# `paper-category` and `paper-instance` are the columns of the paper's supplement, `paper-code` the authors'
# published code on the category sets.
AS_PUBLISHED = {"space": "raw", "init": "random", "head": "mlp", "patience": 0}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper-category": {
        **AS_PUBLISHED,
        "calibration": "beta:5,5", "pairs": "halves", "batch_size": 64, "lr": 1e-4, "epochs": 100, "decay_at": 80,
        "weight_decay": 5e-4, "hidden": 4096, "quantization_weight": 1.0,
    },
    "paper-instance": {
        **AS_PUBLISHED,
        "calibration": "beta:5,5", "pairs": "halves", "batch_size": 256, "lr": 1e-4, "epochs": 20, "decay_at": 10,
        "weight_decay": 5e-4, "head": "linear", "quantization_weight": 0.01,
    },
    "paper-code": {
        **AS_PUBLISHED,
        "calibration": "beta:5,5", "pairs": "halves", "batch_size": 64, "lr": 1e-4, "epochs": 100, "decay_at": 80,
        "weight_decay": 1e-5, "hidden": 0, "quantization_weight": 1.0,
    },
}  # fmt: skip
# What the presets of the paper leave to a method's published settings. SDC has none of these: this and the preset pin
# each field of its recipe, so that a changed default of `Recipe` does not change what the paper's presets mean.
PAPER: dict[str, Any] = {
    "loss": "l1", "quantization": "cosine", "contrastive_weight": 1.0, "supervised": False, "locality": None,
    "hidden": 0, "norm": True, "budget": 0.0, "normalize": False, "steps": 0, "schedule": "constant",
    "optimizer": "adam", "search_by": None, "price": None, "tables": False,
}  # fmt: skip
MOST_PRICE = 1e6  # of a bit: far more than a vector's squared error, far less than float32 can hold
RUNS_OWN = ("bits", "seed")  # fields that no preset and no goal decides


def make_recipe(preset: str = "default", **chosen: Any) -> Recipe:
    """The preset's recipe with the `chosen` fields (those that are not None) in their place.

    Raises:
        UsageError: an unknown preset, method or field, or a value out of its range.
        SdcError: the method's module lacks its published settings.
    """
    if preset not in PRESETS:
        raise unknown_name_error("preset", preset, PRESETS)
    known = {field.name for field in fields(Recipe)}
    for name in chosen:
        if name not in known:
            raise unknown_name_error("setting", name, known)
    hints = get_type_hints(Recipe)
    values = {name: checked_value(name, value, hints[name]) for name, value in chosen.items() if value is not None}
    if values.get("budget"):
        values = {"epochs": 0, "steps": 0, "patience": Recipe.patience, **values}
    if "epochs" in values:  # they replace the steps that a method's settings may have
        values = {"steps": 0, **values}
    if values.get("supervised"):  # the neighbours that held-out rows have among the features are not what is learned
        values = {**values, "patience": chosen.get("patience") or 0}
    base = {} if preset == "default" else PAPER
    published = published_settings(values.get("method", Recipe.method))
    recipe = replace(Recipe(), **{**base, **published, **PRESETS[preset], **values})
    return _checked(recipe)


def recorded_recipe(record: Mapping[str, Any]) -> Recipe:
    """The recipe of a model from what it records; fields that are newer than the model have their defaults.

    Raises:
        UsageError: a field that this version does not know, or a value out of its range.
    """
    known = {field.name for field in fields(Recipe)}
    for name in record:
        if name not in known:
            raise unknown_name_error("setting", name, known)
    return _checked(Recipe(**record))


def _checked(recipe: Recipe) -> Recipe:
    """The recipe with its calibration as models record it. Raises as `make_recipe`."""
    _check(recipe)
    return replace(recipe, calibration=canonical(recipe.calibration, recipe.bits))


def _check(recipe: Recipe) -> None:
    if recipe.method not in METHODS:
        raise unknown_name_error("method", recipe.method, METHODS)
    for field in fields(recipe):
        choices, value = field.metadata.get("choices"), getattr(recipe, field.name)
        if choices and value is not None and value not in choices:
            raise unknown_name_error(field.name, value, choices)
    if recipe.bits < 8 or recipe.bits % 8:
        raise UsageError(f"bits = {recipe.bits}: a code is packed into bytes, so bits must be a positive multiple of 8")
    least = {
        "epochs": 0 if recipe.budget or recipe.steps else 1,
        "steps": 0,
        "batch_size": 2,
        "hidden": 0,
        "decay_at": 0,
        "patience": 0,
        "seed": 0,
    }
    for name, value in least.items():
        if getattr(recipe, name) < value:
            raise UsageError(f"{name} = {getattr(recipe, name)}: must be at least {value}")
    for name in ("quantization_weight", "contrastive_weight", "weight_decay", "budget"):
        if not 0 <= getattr(recipe, name) < float("inf"):
            raise UsageError(f"{name} = {getattr(recipe, name)}: must not be negative")
    if recipe.seed > MOST_SEED:
        raise UsageError(f"seed = {recipe.seed}: must be at most {MOST_SEED}")
    if recipe.supervised and recipe.method not in CALIBRATED:
        raise UsageError(f"{recipe.method} has no use for labels: --supervised is for {' and '.join(CALIBRATED)}")
    if recipe.locality is not None and not 0 <= recipe.locality <= 1:
        raise UsageError(f"locality = {recipe.locality}: must lie between 0 and 1")
    if recipe.locality and recipe.space != "principal":
        raise UsageError(f"locality = {recipe.locality} needs the space 'principal', not {recipe.space!r}")
    if recipe.price is not None and not 0 <= recipe.price <= MOST_PRICE:
        raise UsageError(f"price = {recipe.price}: must lie between 0 and {MOST_PRICE:g}, which no bit is worth")
    if recipe.price is not None and recipe.search_by is None:
        raise UsageError("a price is paid where codes are refined: add --search-by hamming, both or tables")
    if recipe.lr is not None and not 0 < recipe.lr < float("inf"):
        raise UsageError(f"lr = {recipe.lr}: must be positive")
