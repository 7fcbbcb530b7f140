"""WCH: weighted contrastive hashing, Yu et al., ACCV 2022.

A row's first view is to be near to the second views of the batch by the weights w, which say how much two images have
in common, patch by patch: w = softmax(s / 0.2), each row divided by its own entry on the diagonal, where s is the mean,
over the patches of one image, of the cosine with the most similar patch of the other. The loss is the cross-entropy of
h₁ h₂ᵀ / (0.3 K) with w, h being the signs of tanh(outputs) with straight-through gradients. To it |mean h|² − mean |h|²
of the first views is added, a mean over bits, which balances the bits and drives the outputs off 0.

Departures: the original trains a vision transformer from end to end, hashes the mean of its patch tokens, and first
lets the tokens of an image's two views attend to each other, then compares patches across views. Here the backbone is
frozen, so features are hashed, and the patches are those of the plain images: each image is wholly similar to itself,
and no attention is needed to find again what an augmentation cut off. The authors' code divides w by the diagonal in
columns. The head's hidden layer has GELU in place of ReLU; and as it is trained alone, it takes the epochs, batches and
rate of the other methods (100 of 64 rows at 1e-4) in place of 50 epochs of batches of 32 at 1e-5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdc.train.losses import signs
from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.gradient_method import GradientMethod
from sdc.train.recipe import Recipe

SIMILARITY_TEMPERATURE, CODE_TEMPERATURE = 0.2, 0.3


class Loss(NamedTuple):
    """Scalars: total = contrastive + balance."""

    total: Tensor
    contrastive: Tensor
    balance: Tensor


class WCH(GradientMethod):
    terms = Loss._fields
    views = 2

    @classmethod
    def extras(cls, recipe: Recipe) -> tuple[str, ...]:
        return ("tokens",)

    def loss(self, features: Tensor, outputs: Tensor, tokens: Tensor | None = None) -> Loss:
        weights = similarity_weights(self.similarities(features, tokens))
        first, second = signs(torch.tanh(outputs)).unbind(1)
        logits = first @ second.T / (CODE_TEMPERATURE * outputs.shape[-1])
        contrastive = F.cross_entropy(logits, weights)
        balance = first.mean(0).square().mean() - first.square().mean()
        return Loss(contrastive + balance, contrastive, balance)

    def similarities(self, features: Tensor, tokens: Tensor | None) -> Tensor:
        """(B, B), of the rows of features (B, 2, p) or tokens (B, T, w)."""
        assert tokens is not None
        return patch_similarities(tokens.float())


def patch_similarities(tokens: Tensor) -> Tensor:
    """The mean over a row's patches of the cosine with the most similar patch of another row.

    Args:
        tokens: (B, T, w).

    Returns:
        (B, B): entry (i, j) is of i's patches among j's. The diagonal is 1.
    """
    unit = F.normalize(tokens, dim=-1)
    similarities = unit.new_empty(len(unit), len(unit))
    for i, patches in enumerate(unit):  # one row at a time: all pairs of patches of a batch may be gigabytes
        cosines = patches @ unit[i:].mT  # (B − i, T, T), which serve both (i, j) and (j, i)
        similarities[i, i:] = cosines.amax(2).mean(1)
        similarities[i:, i] = cosines.amax(1).mean(1)
    return similarities


def similarity_weights(similarities: Tensor) -> Tensor:
    """softmax(s / 0.2) of each row of similarities s (B, B), divided by its entry on the diagonal, which becomes 1."""
    return ((similarities - similarities.diagonal()[:, None]) / SIMILARITY_TEMPERATURE).exp()


METHOD = WCH
SETTINGS = {**PUBLISHED, "head": "mlp", "hidden": 1024, "weight_decay": 0.0}
