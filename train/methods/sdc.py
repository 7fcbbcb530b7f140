"""Similarity distribution calibration: Ng et al., BMVC 2023, section 3, without the contrastive term."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdc.extract.store import NO_LABEL
from sdc.kernels import Loss, calibration_loss, quantile_table, sample_length
from sdc.train.calibrations import LINEAR, inverse_cdf
from sdc.train.linear_scaling import linear_scaling_loss
from sdc.train.methods.gradient_method import GradientMethod
from sdc.train.recipe import Recipe

BANK = 2048  # training rows
NEAREST = 10  # of the bank


class SDC(GradientMethod):
    """Ranks the pairs of a batch by the features and pulls their code similarities to the calibration's quantiles."""

    terms = Loss._fields

    def __init__(self, recipe: Recipe, batch_size: int, sample: Tensor) -> None:
        super().__init__(recipe, batch_size, sample)
        self.bank = F.normalize(sample[:BANK])
        names = ("pairs", "loss", "quantization", "quantization_weight")
        self.options: dict[str, Any] = {name: getattr(recipe, name) for name in names}
        self.quantiles: Tensor | None = None
        if recipe.calibration != LINEAR:
            table = quantile_table(inverse_cdf(recipe.calibration), sample_length(batch_size, recipe.pairs))
            self.quantiles = torch.from_numpy(table).to(sample.device)

    @classmethod
    def extras(cls, recipe: Recipe) -> tuple[str, ...]:
        return ("labels",) if recipe.supervised else ()

    def loss(self, features: Tensor, outputs: Tensor, labels: Tensor | None = None) -> Loss:
        unit = self.teacher(features)
        if labels is not None:
            unit = relevant_first(unit, labels)
        if self.quantiles is None:
            return linear_scaling_loss(unit, outputs, **self.options)
        return calibration_loss(unit, outputs, self.quantiles, **self.options)

    def teacher(self, features: Tensor) -> Tensor:
        """The unit vectors (B, p) by whose cosines pairs are ranked: see `sdc.train.feature_space`."""
        unit = super().teacher(features)
        if not self.recipe.locality:
            return unit
        similarities, nearest = (unit @ self.bank.T).topk(min(NEAREST, len(self.bank)), sorted=False)
        near = torch.einsum("bk,bkp->bp", similarities.clamp(min=0) ** 3, self.bank[nearest])
        return F.normalize(unit + self.recipe.locality * F.normalize(near))


def relevant_first(unit: Tensor, labels: Tensor) -> Tensor:
    """Vectors among which pairs that share a label have higher cosines than all that share none.

    Among pairs that share as many labels, the order of the cosines of `unit` stays.

    Args:
        unit: (B, p), of unit length.
        labels: (B,) whole numbers, `NO_LABEL` being none, or (B, C) zeros and ones.
    """
    if labels.ndim == 1:
        labels = F.one_hot(torch.unique(labels, return_inverse=True)[1]) * (labels != NO_LABEL)[:, None]
    lifted = torch.cat([unit, 2 * labels.to(unit.dtype)], 1)  # 4 a shared label: cosines differ by 2 at most
    scaled: Tensor = lifted / lifted.norm(dim=1).max()
    return scaled


METHOD = SDC
SETTINGS: dict[str, Any] = {}
