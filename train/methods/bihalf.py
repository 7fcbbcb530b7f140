"""BiHalf: Li and van Gemert, AAAI 2021.

A bit tells most where half of the rows have it. In training, the codes B of N rows are therefore not the signs of their
outputs U: for each bit, the half of the rows with the largest outputs is +1, the other half −1, which is the optimal
transport from the outputs to balanced bits. Their gradient g is handed to U as g + γ(U − B)/(N·K), which draws the
outputs to their bits; here g passes straight through, and the rest is the gradient of a term γ/2 · mean (U − B)² of the
loss, so that the loss reported is the one that falls. What is learned are the cosines of the features, as in
GreedyHash. A row on its own has no half: the codes of the finished model are the signs of the outputs.

Departures from the original: rows of a set of features stand for images at the last hidden layer of a frozen VGG16
(the original trains nothing but the last layer, too), and the optimizer is Adam, not SGD with momentum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdc.train.losses import halves_loss
from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.gradient_method import GradientMethod


class Loss(NamedTuple):
    total: Tensor
    similarity: Tensor
    transport: Tensor


class BiHalf(GradientMethod):
    terms = Loss._fields
    gamma = 6.0

    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        codes = balanced_codes(outputs)
        similarity, transport = halves_loss(features, codes), (outputs - codes.detach()).square().mean()
        return Loss(similarity + self.gamma / 2 * transport, similarity, transport)


class _BalancedCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> Tensor:
        order = outputs.argsort(dim=0, descending=True, stable=True)
        return torch.full_like(outputs, -1).scatter_(0, order[: len(outputs) // 2], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def balanced_codes(outputs: Tensor) -> Tensor:
    """Codes (B, K) with ⌊B/2⌋ times +1 in each column, where the outputs (B, K) are largest, and −1 else.

    Of equal outputs, the first rows are taken as larger; the middle one of an odd batch is −1. The gradient passes
    straight through.
    """
    codes: Tensor = _BalancedCodes.apply(outputs)
    return codes


METHOD = BiHalf
SETTINGS = {**PUBLISHED, "batch_size": 32, "weight_decay": 5e-4}
