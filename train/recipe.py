"""How a head is trained: the recipe, each setting of which is declared here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sdc.kernels import LOSSES, PAIRS, QUANTIZATIONS
from sdc.settings import either, option, recorded
from sdc.train.methods import METHODS

# What every model has recorded from the first version on. A field added later is recorded only where it differs from
# its default, so that no older model, checkpoint or cell of a grid counts as one of other settings: see `sdc.settings`.
ALWAYS_RECORDED = {
    "method", "bits", "calibration", "pairs", "loss", "quantization", "quantization_weight", "contrastive_weight",
    "supervised", "space", "locality", "init", "head", "hidden", "norm", "epochs", "budget", "patience", "batch_size",
    "lr", "decay_at", "weight_decay", "seed",
}  # fmt: skip


SEARCH_BY = ("hamming", "both", "tables")


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; the defaults are the preset `default`.

    The options of `sdc train` and the fields of `TrainSettings` are derived from these fields. A new one needs a value
    in `sdc.train.presets.PAPER` too, which pins what the presets of the paper mean.

    Attributes:
        bits: K, the length of a code; a multiple of 8.
        calibration: the distribution of the code similarities, see `sdc.train.calibrations`.
        pairs, loss, quantization, quantization_weight: see `sdc.kernels.calibration_loss`.
        supervised: rank pairs that share a label above all others, and by the features among themselves (`sdc`).
        contrastive_weight: λ_cl, of `sdc-contrastive`.
        space: `principal` (centred, on the principal axes, see `sdc.train.feature_space`), `standard` (centred and
            scaled), or `raw`, the features as they are.
        locality: from 0 (pairs are ranked by the features' own similarities) to 1 (by what tells neighbourhoods apart),
            see `sdc.train.feature_space`; None takes the rule of `resolved`.
        init: `itq` starts a linear head from ITQ's solution (an mlp starts at random all the same), or `random`.
        normalize: features are divided by their length first.
        head: `mlp` (Linear–GELU–Linear–BatchNorm), `linear` (Linear–BatchNorm), or `residual`: the sum of both, which
            starts as the linear one.
        hidden: width of the mlp's hidden layer; 0 takes the features' dimension.
        norm: the head ends with a batch norm.
        epochs: passes over the training rows, at most; 0 sets no limit (where there is a budget).
        steps: of the optimizer, in place of epochs; 0 goes by epochs.
        budget: seconds that training may take, all told; 0 sets no limit.
        patience: checks on held-out rows without progress after which the learning rate is cut, and, after `CUTS` cuts,
            training ends; 0 holds nothing out and trains all epochs. See `sdc.train.loop.early_stopping`.
        batch_size: rows a step; the last, incomplete batch of an epoch is dropped.
        lr: Adam's learning rate, divided by 10 from epoch `decay_at` on (0: never); None takes the rule of `resolved`.
        schedule: `constant`, or `one-cycle` (Smith and Topin 2018): the rate rises for a tenth of the steps and falls
            to 0 along a cosine.
        weight_decay: Adam's L2 penalty, or the decay of AdamW.
        optimizer: `adam` or `adamw`.
        search_by: refine codes for this reading: `hamming`, `tables` (the query in float), or `both`; None keeps the
            outputs' signs. See `sdc.train.byte_tables`.
        price: of a bit that departs from its output's sign where codes are refined; None takes that of `search_by`.
        tables: fit byte tables, with which a query in float is compared, though codes are not refined against them.
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
    space: str = option(
        "principal",
        "principal: centred, on the principal axes; standard: centred and scaled; or raw.",
        choices=("principal", "standard", "raw"),
    )
    locality: float | None = option(None, "0: rank pairs by the features; 1: by what tells neighbourhoods apart.")
    init: str = option("itq", "Start of a linear head: itq or random.", choices=("itq", "random"))
    head: str = option("linear", "linear, mlp, or residual: the sum of both.", choices=("linear", "mlp", "residual"))
    hidden: int = option(0, "Width of the hidden layer; 0 takes the features'.")
    norm: bool = option(True, "A batch norm at the end of the head.")
    epochs: int = option(10, "At most.")
    budget: float = option(0.0, "Train the best head for so long, e.g. 30s or 5m.", metavar="TIME")
    patience: int = option(5, "Checks on held-out rows without gain before the rate is cut; 0: never.")
    batch_size: int = option(256)
    lr: float | None = option(None, "Adam's learning rate.")
    decay_at: int = option(0, "Divide the learning rate by 10 from this epoch on; 0 for never.")
    weight_decay: float = option(1e-5)
    seed: int = option(0)
    normalize: bool = option(False, "Divide features by their length first.")
    steps: int = option(0, "Train for so many steps in place of --epochs.")
    schedule: str = option("constant", "constant or one-cycle.", choices=("constant", "one-cycle"))
    optimizer: str = option("adam", "adam or adamw.", choices=("adam", "adamw"))
    search_by: str | None = option(
        None,
        "Refine codes for a reading: hamming, tables (the query in float), or both.  "
        "[default: both for --goal neighbors; else the codes are signs]",
        choices=SEARCH_BY,
    )
    price: float | None = option(None, "Of a bit that departs from its output's sign; 0: it is free.")
    tables: bool = option(False, "Fit tables that score the codes for a query in float, also where none is refined.")

    @property
    def fits_tables(self) -> bool:
        """Whether byte tables are fitted to the trained head's codes."""
        return self.tables or self.search_by is not None

    def record(self) -> dict[str, Any]:
        """What files record of the recipe."""
        return recorded(self, ALWAYS_RECORDED)

    def resolved(self, dimension: int) -> Recipe:
        """The recipe for features of `dimension` d, with what depends on it filled in.

        A code of few bits for many dimensions can't keep each row's very nearest neighbours, but can tell what kind of
        row it is: the locality is 1 up to a tenth of a bit a dimension, 0 from a sixth on, and linear between. So is,
        on a logarithmic scale, the learning rate: without locality ITQ's solution is nearly the best already.
        """
        if self.space != "principal":
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
