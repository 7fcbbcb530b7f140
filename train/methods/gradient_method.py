"""What a trained hashing method gives to the training loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc.train.recipe import Recipe


class GradientMethod(nn.Module):
    """A method that gives the loss of a batch; made once a run.

    Parameters and buffers of its own (a decoder, a projection) are trained along with the head and kept in checkpoints,
    but not in the model. It is built under the run's seed; in `loss`, randomness comes from `generator`, which is
    seeded anew at each step, so that a resumed run goes on as if undisturbed.

    Args:
        recipe: the run's settings.
        batch_size: rows of every batch (smaller than the recipe's where the set is smaller).
        sample: (n, p) training rows in random order, in the space of the batches and on their device.

    Attributes:
        terms: names of what `loss` returns; the first is `total`.
        views: how many views of each row it learns from. Where the features hold fewer, the views are copies of the
            one there is, with a share of the features dropped from each.
        in_space: whether it learns from features in the recipe's space, or as they are stored (divided by their length
            where the recipe says so).
        generator: of random numbers, on the device of the sample.
    """

    terms: ClassVar[tuple[str, ...]] = ("total",)
    views: ClassVar[int] = 1
    in_space: ClassVar[bool] = True

    def __init__(self, recipe: Recipe, batch_size: int, sample: Tensor) -> None:
        super().__init__()
        self.recipe, self.batch_size = recipe, batch_size
        self.generator = torch.Generator(sample.device)

    @abstractmethod
    def loss(self, features: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        """The loss of one batch: the scalar total, to be minimised, then the scalars that `terms` names.

        Args:
            features: (B, p) in the recipe's space; (B, V, p) where the method learns from V > 1 views.
            outputs: (B, K), or (B, V, K), of the head.

        What `extras` names is given beside them as keywords, of the same rows.
        """

    def parameter_groups(self, head: nn.Module) -> list[dict[str, Any]]:
        """What the optimizer trains: groups of `params`, with `weight_decay`, and `factor`, of the learning rate."""
        return [{"params": [*head.parameters(), *self.parameters()], "weight_decay": self.recipe.weight_decay}]

    @classmethod
    def extras(cls, recipe: Recipe) -> tuple[str, ...]:
        """What the method learns from beside features: `tokens` (B, T, w) as stored, `labels` (B,) or (B, C)."""
        return ()

    def teacher(self, features: Tensor) -> Tensor:
        """The unit vectors (B, p) of features (B, p) whose cosines say what is near to what."""
        return F.normalize(features)
