"""What a training run is made of: the recipe's fields, and the presets that fill them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from sdc.devices import MOST_SEED
from sdc.errors import UsageError, unknown_name_error
from sdc.train.methods import CALIBRATED, METHODS


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; the defaults are the preset `default`.

    Attributes:
        bits: K, the length of a code; a multiple of 8.
        calibration: the distribution of the code similarities, see `sdc.train.calibration`.
        pairs, loss, quantization, quantization_weight: see `sdc.kernels.calibration_loss`.
        supervised: rank pairs that share a label above all others, and by the features among themselves (`sdc`).
        contrastive_weight: λ_cl, of `sdc-contrastive`.
        space: `principal` (centred, on the principal axes, see `sdc.train.feature_space`) or `raw`, the features as
            they are.
        locality: from 0 (pairs are ranked by the features' own similarities) to 1 (by what tells neighbourhoods apart),
            see `sdc.train.feature_space`; None takes the rule of `resolved`.
        init: `itq` starts a linear head from ITQ's solution (an mlp starts at random all the same), or `random`.
        head: `mlp` (Linear–GELU–Linear–BatchNorm) or `linear` (Linear–BatchNorm).
        hidden: width of the mlp's hidden layer; 0 takes the features' dimension.
        norm: the head ends with a batch norm.
        epochs: passes over the training rows, at most; 0 sets no limit (where there is a budget).
        budget: seconds that training may take, all told; 0 sets no limit.
        patience: checks on held-out rows without progress after which the learning rate is cut, and, after `CUTS` cuts,
            training ends; 0 holds nothing out and trains all epochs. See `sdc.train.loop.early_stopping`.
        batch_size: rows a step; the last, incomplete batch of an epoch is dropped.
        lr: Adam's learning rate, divided by 10 from epoch `decay_at` on (0: never); None takes the rule of `resolved`.
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
    contrastive_weight: float = 1.0
    supervised: bool = False
    space: str = "principal"
    locality: float | None = None
    init: str = "itq"
    head: str = "linear"
    hidden: int = 0
    norm: bool = True
    epochs: int = 10
    budget: float = 0.0
    patience: int = 5
    batch_size: int = 256
    lr: float | None = None
    decay_at: int = 0
    weight_decay: float = 1e-5
    seed: int = 0

    def resolved(self, dimension: int) -> Recipe:
        """The recipe for features of `dimension` d, with what depends on it filled in.

        A code of few bits for many dimensions can't keep each row's very nearest neighbours, but can tell what kind of
        row it is: the locality is 1 up to a tenth of a bit a dimension, 0 from a sixth on, and linear between. So is,
        on a logarithmic scale, the learning rate: without locality ITQ's solution is nearly the best already.
        """
        if self.space == "raw":
            locality = 0.0
        elif self.locality is None:
            locality = min(max((1 / 6 - self.bits / dimension) / (1 / 6 - 1 / 10), 0.0), 1.0)
        else:
            locality = self.locality
        lr = LEAST_LR ** (1 - locality) * LR**locality if self.lr is None else self.lr
        return replace(self, locality=locality, lr=lr)


LEAST_LR, LR = 1e-5, 4e-2  # by the rule, at locality 0 and 1
CUT, CUTS = 0.3, 3  # of the learning rate, when held-out rows gain no more
LEAST_GAIN = 0.001  # of agreement, that counts

# What methods other than `sdc` are published with, as far as it differs from `Recipe`. All are trained 100 epochs, as
# in the paper.
PUBLISHED: dict[str, Any] = {
    "space": "raw", "init": "random", "norm": False, "epochs": 100, "patience": 0, "batch_size": 64, "lr": 1e-4,
    "calibration": "beta:5,5", "pairs": "halves",
}  # fmt: skip
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "sdc-contrastive": {**PUBLISHED, "norm": True, "head": "mlp", "decay_at": 80},
    "greedyhash": {**PUBLISHED, "batch_size": 32, "weight_decay": 5e-4, "quantization_weight": 0.1},
    "bihalf": {**PUBLISHED, "batch_size": 32, "weight_decay": 5e-4},
    "ssdh": {**PUBLISHED, "batch_size": 24},
    "cibhash": {**PUBLISHED, "head": "mlp", "hidden": 1024, "lr": 1e-3, "weight_decay": 0.0},
    "nsh": {**PUBLISHED, "batch_size": 50, "lr": 1e-5},
    "tbh": {**PUBLISHED, "head": "mlp", "hidden": 1024, "batch_size": 400, "weight_decay": 0.0},
    "wch": {**PUBLISHED, "head": "mlp", "hidden": 1024, "weight_decay": 0.0},
    "wch-global": {**PUBLISHED, "head": "mlp", "hidden": 1024, "weight_decay": 0.0},
}

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


def make_recipe(preset: str = "default", **chosen: Any) -> Recipe:
    """The preset's recipe with the `chosen` fields (those that are not None) in their place.

    Raises:
        UsageError: an unknown preset, method or field, or a value out of its range.
    """
    if preset not in PRESETS:
        raise unknown_name_error("preset", preset, PRESETS)
    known = {field.name for field in fields(Recipe)}
    for name in chosen:
        if name not in known:
            raise unknown_name_error("setting", name, known)
    given = {name: value for name, value in chosen.items() if value is not None}
    if given.get("budget"):
        given = {"epochs": 0, "patience": Recipe.patience, **given}
    if given.get("supervised"):  # the neighbours that held-out rows have among the features are not what is learned
        given = {**given, "patience": chosen.get("patience") or 0}
    published = METHOD_DEFAULTS.get(given.get("method", Recipe.method), {})
    recipe = replace(Recipe(), **{**published, **PRESETS[preset], **given})
    _check(recipe)
    from sdc.train.calibration import canonical

    return replace(recipe, calibration=canonical(recipe.calibration, recipe.bits))


def _check(recipe: Recipe) -> None:
    if recipe.method not in METHODS:
        raise unknown_name_error("method", recipe.method, METHODS)
    choices = {
        "space": ("principal", "raw"),
        "init": ("itq", "random"),
        "head": ("mlp", "linear"),
        "pairs": ("rows", "halves", "all"),
        "loss": ("l1", "l2", "one-sided"),
        "quantization": ("cosine", "l1", "l2", "cubic"),
    }
    for name, known in choices.items():
        if getattr(recipe, name) not in known:
            raise unknown_name_error(name, getattr(recipe, name), known)
    if recipe.bits < 8 or recipe.bits % 8:
        raise UsageError(f"bits = {recipe.bits}: a code is packed into bytes, so bits must be a positive multiple of 8")
    least = {"epochs": 0 if recipe.budget else 1, "batch_size": 2, "hidden": 0, "decay_at": 0, "patience": 0, "seed": 0}
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
    if recipe.locality and recipe.space == "raw":
        raise UsageError(f"locality = {recipe.locality} needs the space 'principal', not 'raw'")
    if recipe.lr is not None and not 0 < recipe.lr < float("inf"):
        raise UsageError(f"lr = {recipe.lr}: must be positive")
