"""SDC with the contrastive term, the paper's full method: Ng et al., BMVC 2023, Algorithm 1 of the supplement.

L = L_sdc + λ_q · L_q + λ_cl · NT-Xent of the two views' hash outputs. As in Algorithm 1, pairs are ranked and their
similarities calibrated on the first view. (The authors' published code does so on both views, and cuts the targets
below 0 off, which Algorithm 1 does not.)

In the original both views are augmented images, here the first one is the plain image's features: see
`sdc extract --views`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sdc.train.losses import nt_xent
from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.sdc import SDC


class Loss(NamedTuple):
    """Scalars: total = calibration + quantization_weight · quantization + contrastive_weight · contrastive."""

    total: Tensor
    calibration: Tensor
    quantization: Tensor
    contrastive: Tensor


class SDCContrastive(SDC):
    """SDC on the first view, and NT-Xent between the two, by the recipe's `contrastive_weight`."""

    terms = Loss._fields  # type: ignore[assignment]
    views = 2

    def loss(  # type: ignore[override]  # one term more than SDC's
        self, features: Tensor, outputs: Tensor, labels: Tensor | None = None
    ) -> Loss:
        total, calibration, quantization = super().loss(features[:, 0], outputs[:, 0], labels)
        contrastive = nt_xent(outputs)
        return Loss(total + self.recipe.contrastive_weight * contrastive, calibration, quantization, contrastive)


METHOD = SDCContrastive
SETTINGS = {**PUBLISHED, "norm": True, "head": "mlp", "decay_at": 80}
