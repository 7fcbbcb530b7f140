"""Similarity distribution calibration: Ng et al., BMVC 2023, section 3, without the contrastive term."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdc.kernels import Loss, calibration_loss, quantile_table, sample_length
from sdc.train.calibration import inverse_cdf
from sdc.train.methods import Trained
from sdc.train.recipe import Recipe


class SDC(Trained):
    """Ranks the pairs of a batch by the features and pulls their code similarities to the calibration's quantiles."""

    def __init__(self, recipe: Recipe, batch_size: int, device: torch.device) -> None:
        self.recipe = recipe
        table = quantile_table(inverse_cdf(recipe.calibration), sample_length(batch_size, recipe.pairs))
        self.quantiles = torch.from_numpy(table).to(device)

    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        recipe = self.recipe
        return calibration_loss(
            F.normalize(features),
            outputs,
            self.quantiles,
            pairs=recipe.pairs,
            loss=recipe.loss,
            quantization=recipe.quantization,
            quantization_weight=recipe.quantization_weight,
        )


METHOD = SDC
