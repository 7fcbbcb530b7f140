"""GreedyHash, unsupervised: Su, Zhang, Han and Tian, NeurIPS 2018.

Codes are the signs of the head's outputs h in training, too, and their gradient is handed to h as it is. What is
learned are the cosines of the features, by pairs: row i of a batch with row i + B/2. The mean of ||h| − 1|³, times
`quantization_weight`, holds the outputs near their signs.

Departures from the original: rows of a set of features stand for images at the last hidden layer of a frozen VGG16
(the original trains nothing but the last layer, too), and the optimizer is Adam, not SGD with momentum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdc.train.trained import Trained


class Loss(NamedTuple):
    total: Tensor
    similarity: Tensor
    quantization: Tensor


class GreedyHash(Trained):
    terms = Loss._fields

    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        similarity = halves_loss(features, signs(outputs))
        quantization = (outputs.abs() - 1).abs().pow(3).mean()
        return Loss(similarity + self.recipe.quantization_weight * quantization, similarity, quantization)


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> Tensor:
        return torch.where(outputs > 0, 1.0, -1.0).to(outputs.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def signs(outputs: Tensor) -> Tensor:
    """−1 or +1 for each of the outputs, as they are encoded (0 is −1); the gradient passes straight through."""
    found: Tensor = _Signs.apply(outputs)
    return found


def halves_loss(features: Tensor, codes: Tensor) -> Tensor:
    """The mean squared difference of cosines between features (B, p) and codes (B, K).

    Over the ⌊B/2⌋ pairs of row i with row i + ⌊B/2⌋; the last row of an odd batch is in none.
    """
    half = len(codes) // 2
    similarities, targets = (F.cosine_similarity(x[:half], x[half : 2 * half]) for x in (codes, features))
    return F.mse_loss(similarities, targets)


METHOD = GreedyHash
