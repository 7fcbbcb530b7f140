"""SSDH: semantic structure-based unsupervised deep hashing, Yang et al., IJCAI 2018.

The cosine distances of all pairs of rows are taken to follow one half of a Gaussian below their mode and one half of
another above it. Pairs nearer than the left one's μ − 2σ are similar, S = +1, pairs farther than the right one's
μ + 2σ dissimilar, S = −1, and the others, S = 0, are not learned from. The codes h are tanh of the head's outputs, as
in the original, and the loss is the mean of |S| (hᵢ·hⱼ/K − S)² over all i, j of a batch; a row's pair with itself, at
distance 0, is similar, and draws h to ±1.

Departures from the original: the features are given and only the head is trained, not the network below it; the
distances are those of at most `ROWS` training rows; and the bins reach from the smallest distance to the largest one
instead of from 0 to 1, where not all features have theirs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc.errors import SdcError, log
from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.gradient_method import GradientMethod
from sdc.train.recipe import Recipe

ROWS = 5000  # as many as the original trains on
BINS = 100
WIDTH = 2  # standard deviations between the mode and a clear pair


class SSDH(GradientMethod):
    def __init__(self, recipe: Recipe, batch_size: int, sample: Tensor) -> None:
        super().__init__(recipe, batch_size, sample)
        distances = self.distances(sample[:ROWS])
        upper = torch.ones_like(distances, dtype=torch.bool).triu(1)
        self.similar, self.dissimilar = clear_distances(distances[upper].cpu().numpy())

    def loss(self, features: Tensor, outputs: Tensor) -> tuple[Tensor]:
        distances, codes = self.distances(features), outputs.tanh()
        structure = (distances < self.similar).to(codes.dtype) - (distances > self.dissimilar).to(codes.dtype)
        return ((structure.abs() * (codes @ codes.T / codes.shape[1] - structure).square()).mean(),)

    def distances(self, features: Tensor) -> Tensor:
        """The cosine distances (B, B) of features (B, p)."""
        unit = self.teacher(features)
        return 1 - unit @ unit.T


def clear_distances(distances: np.ndarray) -> tuple[float, float]:
    """Below the first pairs are clearly similar, above the second clearly dissimilar.

    A half-Gaussian has its mean, when mirrored, at the mode; its σ is the root mean square distance from there.

    Args:
        distances: (n,) of pairs of different rows.

    Raises:
        SdcError: all are equal.
    """
    if not np.ptp(distances) > 0:
        raise SdcError("ssdh needs pairs of training rows at different distances, found all at the same")
    counts, edges = np.histogram(distances, BINS)
    fullest = counts.argmax()
    mode = (edges[fullest] + edges[fullest + 1]) / 2
    left, right = distances[distances <= mode] - mode, distances[distances > mode] - mode
    similar, dissimilar = (
        mode - WIDTH * np.sqrt(np.square(left).mean()),
        mode + WIDTH * np.sqrt(np.square(right).mean()),
    )
    for kind, present in {"similar": (distances < similar).any(), "dissimilar": (distances > dissimilar).any()}.items():
        if not present:
            log.warning(
                "ssdh finds no %s pairs of training rows, since their distances have no tail there: its codes will be "
                "poor, use another method",
                kind,
            )
    return float(similar), float(dissimilar)


METHOD = SSDH
SETTINGS = {**PUBLISHED, "batch_size": 24}
