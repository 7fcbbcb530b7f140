"""GreedyHash, unsupervised: Su, Zhang, Han and Tian, NeurIPS 2018.

Codes are the signs of the head's outputs h in training, too, and their gradient is handed to h as it is. What is
learned are the cosines of the features, by pairs: row i of a batch with row i + B/2. The mean of ||h| − 1|³, times
`quantization_weight`, holds the outputs near their signs.

Departures from the original: rows of a set of features stand for images at the last hidden layer of a frozen VGG16
(the original trains nothing but the last layer, too), and the optimizer is Adam, not SGD with momentum.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sdc.train.losses import halves_loss, signs
from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.gradient_method import GradientMethod


class Loss(NamedTuple):
    total: Tensor
    similarity: Tensor
    quantization: Tensor


class GreedyHash(GradientMethod):
    terms = Loss._fields

    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        similarity = halves_loss(features, signs(outputs))
        quantization = (outputs.abs() - 1).abs().pow(3).mean()
        return Loss(similarity + self.recipe.quantization_weight * quantization, similarity, quantization)


METHOD = GreedyHash
SETTINGS = {**PUBLISHED, "batch_size": 32, "weight_decay": 5e-4, "quantization_weight": 0.1}
