"""Neighbors: codes that keep each row's nearest rows, by the features' neighbour distribution.

Stochastic neighbour embedding (Hinton and Roweis, NIPS 2002) with codes as the map. The first quarter of a batch are
anchors, the whole batch is their bank. The teacher is the softmax of an anchor's cosines to the bank at a small
temperature, the student that of its code similarities, tanh of the outputs on both sides, at a temperature that is
learned. The loss is their cross entropy.

The teacher's temperature follows the set: the mean entropy of its distributions over a bank of `BANK` rows is
`ENTROPY` nats (see `sdc.train.losses`), so that it looks at about four rows, however close together they lie (what
t-SNE calls the perplexity). It is .012 for SIFT descriptors and .023 for sentence embeddings; a fixed .03 loses a
twentieth of the recall.

Features are compared by the cosine, so they are divided by their length first. The head is linear with a hidden layer
beside it (`residual`), which starts as ITQ's solution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdc.train.losses import ANCHORS, neighbor_loss, teacher_temperature
from sdc.train.methods.gradient_method import GradientMethod
from sdc.train.recipe import Recipe

BANK = 2048  # rows that the temperature is chosen on
STUDENT = 0.05  # the student's first temperature


class Loss(NamedTuple):
    total: Tensor


class Neighbors(GradientMethod):
    terms = Loss._fields
    in_space = False

    def __init__(self, recipe: Recipe, batch_size: int, sample: Tensor) -> None:
        super().__init__(recipe, batch_size, sample)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(STUDENT)))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.tensor(teacher_temperature(self.teacher(sample[:BANK]))))

    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        anchors = max(1, len(outputs) // ANCHORS)
        soft = torch.tanh(outputs)
        logits = soft[:anchors] @ soft.T / (soft.shape[1] * self.log_temperature.exp())
        return Loss(neighbor_loss(self.teacher(features), logits, float(self.temperature)))

    def parameter_groups(self, head: nn.Module) -> list[dict[str, Any]]:
        """The head's parameters with the recipe's rate and decay, the student's temperature with ten times the rate."""
        own: Iterable[nn.Parameter] = [self.log_temperature]
        return [
            {"params": list(head.parameters()), "weight_decay": self.recipe.weight_decay},
            {"params": own, "weight_decay": 0.0, "factor": 10.0},
        ]


METHOD = Neighbors
SETTINGS: dict[str, Any] = {
    "normalize": True, "space": "standard", "locality": 0.0, "head": "residual", "hidden": 1024, "norm": False,
    "steps": 300, "epochs": 0, "batch_size": 2048, "lr": 1e-3, "weight_decay": 0.05, "schedule": "one-cycle",
    "optimizer": "adamw", "search_by": "both", "tables": True,
}  # fmt: skip
