"""The space a head is trained in: a linear map of the features, which is folded into the head when training is done.

`raw` is the features as they are, as in the paper. `standard` centres them and divides them by their coordinates' mean
standard deviation. `principal` centres them, keeps four principal axes for each bit,
but at least `AXES`, and divides the whole by its root mean square, so that a recipe means the same whatever the scale
of the features. On top of it comes the recipe's *locality*, from 0 to 1: how far to turn from the features' own
similarities to those that tell neighbourhoods apart.

- The space is whitened by the covariance C of the differences between a row and its `NEAREST` nearest neighbours:
  directions in which even neighbours differ tell little about what a row is of. The power is −locality/2, and the
  eigenvalues are lifted by their mean, since the small ones are mostly noise.
- The pairs of a batch are ranked by u + locality · v instead of u, a row's unit vector in this space, where v is the
  mean of the nearest of a bank of training rows, weighted by their similarity (see `sdc.train.methods.sdc`).

This serves those who look for items of the same kind and costs those who look for the very nearest ones, which short
codes of wide features can't keep anyhow. So, unless a recipe says otherwise, locality follows from the share of bits in
dimensions: `Recipe.resolved`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdc.devices import decomposing
from sdc.train.pca import principal_axes
from sdc.train.recipe import Recipe

AXES = 256
NEAREST = 5
SAMPLE = 20_000  # training rows the mean, the axes and the start of the head are estimated from, at most
LOCAL = 5_000  # of which so many look for their neighbours among each other


class Space:
    """x ↦ (x − mean) · axes.

    Args:
        mean: (d,).
        axes: (d, p).
    """

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        self.mean, self.axes = mean, axes

    def __call__(self, features: Tensor) -> Tensor:
        """(…, d) -> (…, p)."""
        mapped: Tensor = (features - self.mean) @ self.axes
        return mapped

    def fold(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors of a head that takes features, from those of one that takes their image in this space."""
        mean, axes = self.mean.double().cpu().numpy(), self.axes.double().cpu().numpy()
        # Where a linear map of the features is added to the head, its bias is the output's.
        layers = {"hidden" if "hidden.weight" in tensors else "output": ""}
        if "residual.weight" in tensors:
            layers["residual"] = "output"
        folded = {}
        for layer, biased in layers.items():
            weight = tensors[f"{layer}.weight"].astype(np.float64) @ axes.T
            folded[f"{layer}.weight"] = weight.astype(np.float32)
            bias = f"{biased or layer}.bias"
            folded[bias] = (tensors[bias] - weight @ mean).astype(np.float32)
        return tensors | folded


class Scaling(Space):
    """x ↦ (x − mean) · scale: a space with one number in place of axes."""

    def __call__(self, features: Tensor) -> Tensor:
        """(…, d) -> (…, d)."""
        return (features - self.mean) * self.axes

    def fold(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return Space(self.mean, self.axes * torch.eye(len(self.mean))).fold(tensors)


def make_space(recipe: Recipe, sample: np.ndarray, device: torch.device) -> Space | None:
    """The space of a recipe, from a sample (n, d) float32 of training rows in random order; None where it is raw."""
    if recipe.space == "principal":
        assert recipe.locality is not None  # `Recipe.resolved` has filled it in
        return principal_space(sample, recipe.bits, recipe.locality, device)
    if recipe.space == "standard":
        mean, deviation = sample.mean(axis=0), float(sample.std(axis=0).mean()) or 1.0
        return Scaling(torch.from_numpy(mean).to(device), torch.tensor(1 / deviation, device=device))
    return None


def principal_space(sample: np.ndarray, bits: int, locality: float, device: torch.device) -> Space:
    """The space of a recipe, from a sample (n, d) float32 of the training rows in random order."""
    count = min(max(AXES, 4 * bits), sample.shape[1], len(sample) - 1)
    mean, axes = principal_axes(sample, count)
    turn, mapped = axes.T, (sample - mean) @ axes.T
    if locality:
        whitening = local_whitening(mapped[:LOCAL], locality / 2)
        turn, mapped = turn @ whitening, mapped @ whitening
    scale = np.sqrt(np.square(mapped, dtype=np.float64).mean()) or 1.0
    return Space(torch.from_numpy(mean).to(device), torch.from_numpy((turn / scale).astype(np.float32)).to(device))


def local_whitening(rows: np.ndarray, power: float) -> np.ndarray:
    """V (λ + mean λ)^−power (p, p) of the eigenvalues λ and vectors V of C, see above, on unit rows (n, p)."""
    unit = torch.nn.functional.normalize(torch.from_numpy(rows))
    similarities = unit @ unit.T
    similarities.fill_diagonal_(-torch.inf)
    nearest = similarities.topk(min(NEAREST, len(unit) - 1), sorted=False).indices
    covariance = torch.zeros(unit.shape[1], unit.shape[1], dtype=torch.float64)
    for column in nearest.T:
        difference = unit - unit[column]
        covariance += (difference.T @ difference).double()
    with decomposing(len(covariance)):
        values, vectors = np.linalg.eigh(covariance.numpy() / nearest.numel())
    lifted = values.clip(0) + values.mean()
    if lifted.max() <= 0:  # all rows are alike: nothing to whiten
        return np.eye(len(vectors), dtype=np.float32)
    whitening: np.ndarray = (vectors * lifted**-power).astype(np.float32)
    return whitening


def draw_sample(features: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """At most `SAMPLE` of the rows' features, float32, in random order."""
    rng = np.random.default_rng((seed, 2))
    drawn = rng.choice(len(rows), min(SAMPLE, len(rows)), replace=False, shuffle=False)
    sample = features[rows[np.sort(drawn)]].astype(np.float32)  # in ascending order: faster from a disk
    return rng.permutation(sample)
