"""What a training run is made of: the recipe's fields, and the presets that fill them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from sdc.artifacts import UsageError, unknown
from sdc.train.methods import METHODS


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; the defaults are the preset `default`.

    Attributes:
        bits: K, the length of a code; a multiple of 8.
        calibration: the distribution of the code similarities, see `sdc.train.calibration`.
        pairs, loss, quantization, quantization_weight: see `sdc.kernels.calibration_loss`.
        head: `mlp` (Linear–GELU–Linear–BatchNorm) or `linear` (Linear–BatchNorm).
        hidden: width of the mlp's hidden layer; 0 takes the features' dimension.
        batch_size: rows a step; the last, incomplete batch of an epoch is dropped.
        lr: Adam's learning rate, divided by 10 from epoch `decay_at` on (0: never).
        weight_decay: Adam's L2 penalty.
        seed: of the initial weights and the order of rows.
    """

    method: str = "sdc"
    bits: int = 64
    calibration: str = "beta:16,16"
    pairs: str = "rows"
    loss: str = "l1"
    quantization: str = "cosine"
    quantization_weight: float = 1.0
    head: str = "mlp"
    hidden: int = 0
    epochs: int = 10
    batch_size: int = 256
    lr: float = 2e-3
    decay_at: int = 0
    weight_decay: float = 1e-5
    seed: int = 0


# `default` was chosen on held-out training rows of Fashion-MNIST (see the README's table), at 16 to 128 bits alike.
# `paper-category` and `paper-instance` are the columns of the paper's supplement, `paper-code` the authors'
# published code on the category sets.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper-category": {
        "calibration": "beta:5,5", "pairs": "halves", "batch_size": 64, "lr": 1e-4, "epochs": 100, "decay_at": 80,
        "weight_decay": 5e-4, "hidden": 4096, "quantization_weight": 1.0,
    },
    "paper-instance": {
        "calibration": "beta:5,5", "pairs": "halves", "batch_size": 256, "lr": 1e-4, "epochs": 20, "decay_at": 10,
        "weight_decay": 5e-4, "head": "linear", "quantization_weight": 0.01,
    },
    "paper-code": {
        "calibration": "beta:5,5", "pairs": "halves", "batch_size": 64, "lr": 1e-4, "epochs": 100, "decay_at": 80,
        "weight_decay": 1e-5, "hidden": 0, "quantization_weight": 1.0,
    },
}  # fmt: skip


def make_recipe(preset: str = "default", **chosen: Any) -> Recipe:
    """The preset's recipe with the `chosen` fields (those that are not None) in their place.

    Raises:
        UsageError: an unknown preset, method or field, or a value out of its range.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    known = {field.name for field in fields(Recipe)}
    for name in chosen:
        if name not in known:
            raise unknown("setting", name, known)
    recipe = replace(Recipe(), **{**PRESETS[preset], **{k: v for k, v in chosen.items() if v is not None}})
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    if recipe.method not in METHODS:
        raise unknown("method", recipe.method, METHODS)
    choices = {
        "head": ("mlp", "linear"),
        "pairs": ("rows", "halves", "all"),
        "loss": ("l1", "l2", "one-sided"),
        "quantization": ("cosine", "l1", "l2", "cubic"),
    }
    for name, known in choices.items():
        if getattr(recipe, name) not in known:
            raise unknown(name, getattr(recipe, name), known)
    if recipe.bits < 8 or recipe.bits % 8:
        raise UsageError(f"bits = {recipe.bits}: a code is packed into bytes, so bits must be a positive multiple of 8")
    for name, least in (("epochs", 1), ("batch_size", 2), ("hidden", 0), ("decay_at", 0), ("seed", 0)):
        if getattr(recipe, name) < least:
            raise UsageError(f"{name} = {getattr(recipe, name)}: must be at least {least}")
    for name in ("quantization_weight", "weight_decay"):
        if not 0 <= getattr(recipe, name) < float("inf"):
            raise UsageError(f"{name} = {getattr(recipe, name)}: must not be negative")
    if not 0 < recipe.lr < float("inf"):
        raise UsageError(f"lr = {recipe.lr}: must be positive")
    from sdc.train.calibration import inverse_cdf

    inverse_cdf(recipe.calibration)
