"""What a training run is made of: the recipe's fields, and the presets that fill them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from sdc.devices import MOST_SEED
from sdc.errors import UsageError, unknown_name_error
from sdc.kernels import LOSSES, PAIRS, QUANTIZATIONS
from sdc.settings import either, option, recorded
from sdc.train.methods import CALIBRATED, METHODS, published_settings

# What every model has recorded from the first version on. A field added later is recorded only where it differs from
# its default, so that no older model, checkpoint or cell of a grid counts as one of other settings: see `sdc.settings`.
ALWAYS_RECORDED = {
    "method", "bits", "calibration", "pairs", "loss", "quantization", "quantization_weight", "contrastive_weight",
    "supervised", "space", "locality", "init", "head", "hidden", "norm", "epochs", "budget", "patience", "batch_size",
    "lr", "decay_at", "weight_decay", "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; the defaults are the preset `default`.

    The options of `sdc train` and the fields of `TrainSettings` are derived from these fields. A new one needs a value
    in `PAPER` too, which pins what the presets of the paper mean.

    Attributes:
        bits: K, the length of a code; a multiple of 8.
        calibration: the distribution of the code similarities, see `sdc.train.calibrations`.
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

    method: str = option("sdc", f"{', '.join(METHODS)}.")
    bits: int = option(64, "Length of a code.")
    calibration: str = option(
        "beta:16,16",
        "Distribution of the code similarities: beta:5,5, gaussian:0.3, binomial, linear, empirical:FILE, ...",
    )
    pairs: str = option("rows", f"{either(PAIRS)}.", choices=PAIRS)
    loss: str = option("l1", f"{either(LOSSES)}.", choices=LOSSES)
    quantization: str = option("cosine", f"{either(QUANTIZATIONS)}.", choices=QUANTIZATIONS)
    quantization_weight: float = option(1.0, "λ_q.")
    contrastive_weight: float = option(1.0, "λ_cl of sdc-contrastive.")
    supervised: bool = option(False, "With labels: rank pairs that share one above the others.")
    space: str = option("principal", "principal: centred, on the principal axes; or raw.", choices=("principal", "raw"))
    locality: float | None = option(None, "0: rank pairs by the features; 1: by what tells neighbourhoods apart.")
    init: str = option("itq", "Start of a linear head: itq or random.", choices=("itq", "random"))
    head: str = option("linear", "linear or mlp.", choices=("linear", "mlp"))
    hidden: int = option(0, "Width of the mlp's hidden layer; 0 takes the features'.")
    norm: bool = option(True, "A batch norm at the end of the head.")
    epochs: int = option(10, "At most.")
    budget: float = option(0.0, "Train the best head for so long, e.g. 30s or 5m.", metavar="TIME")
    patience: int = option(5, "Checks on held-out rows without gain before the rate is cut; 0: never.")
    batch_size: int = option(256)
    lr: float | None = option(None, "Adam's learning rate.")
    decay_at: int = option(0, "Divide the learning rate by 10 from this epoch on; 0 for never.")
    weight_decay: float = option(1e-5)
    seed: int = option(0)

    def record(self) -> dict[str, Any]:
        """What files record of the recipe."""
        return recorded(self, ALWAYS_RECORDED)

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
    "hidden": 0, "norm": True, "budget": 0.0,
}  # fmt: skip
RUNS_OWN = ("method", "bits", "seed")  # fields that no preset decides


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
    given = {name: value for name, value in chosen.items() if value is not None}
    if given.get("budget"):
        given = {"epochs": 0, "patience": Recipe.patience, **given}
    if given.get("supervised"):  # the neighbours that held-out rows have among the features are not what is learned
        given = {**given, "patience": chosen.get("patience") or 0}
    base = {} if preset == "default" else PAPER
    published = published_settings(given.get("method", Recipe.method))
    recipe = replace(Recipe(), **{**base, **published, **PRESETS[preset], **given})
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
    from sdc.train.calibrations import canonical

    return replace(recipe, calibration=canonical(recipe.calibration, recipe.bits))


def _check(recipe: Recipe) -> None:
    if recipe.method not in METHODS:
        raise unknown_name_error("method", recipe.method, METHODS)
    for field in fields(recipe):
        choices, value = field.metadata.get("choices"), getattr(recipe, field.name)
        if choices and value not in choices:
            raise unknown_name_error(field.name, value, choices)
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
