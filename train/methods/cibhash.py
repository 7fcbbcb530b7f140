"""CIBHash: hashing with the contrastive information bottleneck, Qiu et al., IJCAI 2021.

Bits are Bernoulli variables of probability p = σ(outputs). Their most probable values, with straight-through
gradients, are told apart by NT-Xent; a Kullback–Leibler term takes out of them what one view has and the other has not
(the paper's bound of the bottleneck), by the weight β.

Departures: it learns on frozen features, as the original on VGG16's fc7. Its head is Linear(d, 1024)–ReLU–Linear; an
mlp of this package has a GELU in place of the ReLU, and the recipe gives it the same width and no batch norm.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdc.train.losses import nt_xent, signs
from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.gradient_method import GradientMethod

BETA = 0.001


class Loss(NamedTuple):
    """Scalars: total = contrastive + `BETA` · divergence."""

    total: Tensor
    contrastive: Tensor
    divergence: Tensor


class CIBHash(GradientMethod):
    terms = Loss._fields
    views = 2

    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        contrastive = nt_xent(signs(torch.sigmoid(outputs) - 0.5))
        divergence = symmetric_divergence(outputs[:, 0], outputs[:, 1])
        return Loss(contrastive + BETA * divergence, contrastive, divergence)


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """½ (KL(p‖q) + KL(q‖p)) = ½ Σ (p − q)(logit p − logit q) of K Bernoulli variables, the mean over rows.

    As in the authors' code, each direction moves its first argument alone. The derivative of KL(p‖q) by p is the
    difference of the logits, whence the one `detach`.

    Args:
        first, second: (B, K) logits of p and q.
    """
    difference = torch.sigmoid(first) - torch.sigmoid(second)
    return (difference * (first - second).detach()).sum(1).mean() / 2


METHOD = CIBHash
SETTINGS = {**PUBLISHED, "head": "mlp", "hidden": 1024, "lr": 1e-3, "weight_decay": 0.0}
