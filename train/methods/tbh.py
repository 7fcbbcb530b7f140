"""TBH: auto-encoding twin-bottleneck hashing, Shen et al., CVPR 2020.

An auto-encoder of the features with two bottlenecks. The binary one, b, says which rows of the batch are alike, by the
graph A of its Hamming distances; the continuous one, z, carries what the decoder needs, but reaches it only smoothed
over that graph, z' = σ(D^-½ A D^-½ (W z + c)) with the degrees D of A. So features are rebuilt well where the codes
join rows that can stand in for each other. Two discriminators keep b near fair coins and z' near the uniform
distribution, as in a Wasserstein auto-encoder.

A bit is 1 with probability p = σ(output) in training, where p > ½ when encoded. Its gradient is that of p. As in the
authors' code, half the squared error is summed over the batch where the discriminators' losses are means (here it is
the other way round, all divided by B): where the game weighs much more, codes collapse.

Departures from the original, in which one layer of 1024 units feeds both bottlenecks: here the head has such a layer,
with GELU in place of ReLU, and the continuous bottleneck has another of its own. The decoder ends without a ReLU, since
features may be negative. The discriminators share the head's optimizer: both sides of the game take a step at once.
The authors' code takes up to 100,000 steps; 100 epochs of 5,000 rows are 1,200, and its codes go on improving then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.gradient_method import GradientMethod
from sdc.train.recipe import Recipe

HIDDEN, CONTINUOUS = 1024, 512  # units
POWER = 1.4  # of the graph: it weakens edges between codes that are not near


class Loss(NamedTuple):
    """Scalars: total = reconstruction + (fooling + discrimination) / B."""

    total: Tensor
    reconstruction: Tensor
    fooling: Tensor
    discrimination: Tensor


class TBH(GradientMethod):
    terms = Loss._fields

    def __init__(self, recipe: Recipe, batch_size: int, sample: Tensor) -> None:
        super().__init__(recipe, batch_size, sample)
        width = sample.shape[1]
        self.encoder = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CONTINUOUS), nn.Sigmoid())
        self.convolution = nn.Linear(CONTINUOUS, CONTINUOUS)
        self.decoder = nn.Sequential(nn.Linear(CONTINUOUS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))
        self.discriminators = nn.ModuleList([nn.Linear(recipe.bits, 1), nn.Linear(CONTINUOUS, 1)])

    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        bits = stochastic_bits(outputs, self.generator)
        smoothed = torch.sigmoid(smoothing(code_graph(bits)) @ self.convolution(self.encoder(features)))
        reconstruction = (self.decoder(smoothed) - features).square().sum(1).mean() / 2
        noise = (stochastic_bits(torch.zeros_like(outputs), self.generator), self._uniform(smoothed))
        fooling, discrimination = game(self.discriminators, (bits, smoothed), noise)
        total = reconstruction + (fooling + discrimination) / len(features)
        return Loss(total, reconstruction, fooling, discrimination)

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.generator, device=like.device)


def stochastic_bits(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """1 with probability p = σ(output), else 0, of the outputs' shape; the gradient is that of p."""
    p = torch.sigmoid(outputs)
    drawn = torch.rand(p.shape, generator=generator, device=p.device)
    return (drawn < p).to(p.dtype) + (p - p.detach())  # the brackets make bits that are exactly 0 or 1


def code_graph(bits: Tensor) -> Tensor:
    """A = (1 − Hamming distance / K)^1.4 of bits (B, K), (B, B): symmetric, from 0 to 1, and 1 on the diagonal."""
    distances = bits @ (1 - bits).T + (1 - bits) @ bits.T
    distances = distances.fill_diagonal_(0)  # as they are; but a row has no gradient from itself
    return (1 - distances / bits.shape[1]) ** POWER


def smoothing(graph: Tensor) -> Tensor:
    """D^-½ A D^-½ of a symmetric graph A (B, B) whose degrees D, the sums of its rows, are positive."""
    scale = graph.sum(1).rsqrt()
    return scale[:, None] * graph * scale


def game(modules: Iterable[nn.Module], encoded: Iterable[Tensor], noise: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Both sides' losses, for one backward pass: each leaves the other side's parameters without a gradient.

    Args:
        modules: discriminators, each from (B, n) to the logits (B, 1) of being noise.
        encoded: (B, n) for each discriminator, what the encoder made, differentiable.
        noise: (B, n) for each, what that should look like.

    Returns:
        Fooling, −log D(encoded), which has a gradient by `encoded` alone, and discrimination, −log(1 − D(encoded)) −
        log D(noise), which has one by the discriminators alone. Means over rows, summed over discriminators.
    """
    fooling, discrimination = [], []
    for module, fake, real in zip(modules, encoded, noise, strict=True):
        frozen = {name: value.detach() for name, value in module.named_parameters()}
        fooling.append(F.softplus(-torch.func.functional_call(module, frozen, fake)).mean())
        discrimination.append(F.softplus(module(fake.detach())).mean() + F.softplus(-module(real)).mean())
    return torch.stack(fooling).sum(), torch.stack(discrimination).sum()


METHOD = TBH
SETTINGS = {**PUBLISHED, "head": "mlp", "hidden": 1024, "batch_size": 400, "weight_decay": 0.0}
