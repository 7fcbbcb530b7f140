"""The hash head φ: features (B, d) -> continuous outputs (B, K)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc.kernels import linear
from sdc.train.methods import ITQ
from sdc.train.recipe import Recipe
from sdc.train.tensors import NORM_EPS


class Linear(nn.Linear):
    """`torch.nn.Linear` by the library that is fastest here, see `sdc.kernels.products`."""

    def forward(self, features: Tensor) -> Tensor:
        """(…, d) -> (…, h)."""
        return linear(features, self.weight, self.bias)


class HashHead(nn.Module):
    """Linear–BatchNorm, or Linear–GELU–Linear–BatchNorm where `hidden` > 0 (the paper's supplement).

    A residual head adds a Linear of the features to the second form, which starts as that Linear alone.

    Args:
        dimension: d, of the features.
        bits: K, of the codes.
        hidden: width of the hidden layer; 0 for none.
        norm: with the batch norm.
        residual: add a linear map of the features to what the hidden layer gives; needs a hidden layer.
    """

    def __init__(self, dimension: int, bits: int, hidden: int, norm: bool = True, residual: bool = False) -> None:
        super().__init__()
        self.hidden = Linear(dimension, hidden) if hidden else None
        self.output = Linear(hidden or dimension, bits)
        self.residual = Linear(dimension, bits, bias=False) if residual else None
        self.norm = nn.BatchNorm1d(bits) if norm else None
        if residual:
            nn.init.zeros_(self.output.weight)

    def forward(self, features: Tensor) -> Tensor:
        """(…, d) -> (…, K)."""
        return self.normalize(self.project(features))

    def normalize(self, projected: Tensor) -> Tensor:
        """The batch norm, over all but the last axis: what makes the outputs of a batch depend on each other."""
        if self.norm is None:
            return projected
        normed: Tensor = self.norm(projected.flatten(0, -2))
        return normed.view_as(projected)

    def project(self, features: Tensor) -> Tensor:
        """The outputs (…, K) before the batch norm, each of its own row alone."""
        hidden = features if self.hidden is None else F.gelu(self.hidden(features))
        projected: Tensor = self.output(hidden)
        return projected if self.residual is None else projected + self.residual(features)


def make_head(dimension: int, bits: int, hidden: int, seed: int, norm: bool = True, residual: bool = False) -> HashHead:
    """A head with seeded initial weights; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HashHead(dimension, bits, hidden, norm, residual)


def start_head(recipe: Recipe, dimension: int, sample: Tensor) -> HashHead:
    """The head a recipe starts from.

    Args:
        recipe: the run's settings.
        dimension: d, of the features; an mlp's hidden layer has this width where the recipe gives none.
        sample: (n, p) training rows in random order, in the space of the head.

    With `init` itq, the first weights of a linear head, or of a residual head's linear part, are those of ITQ (Gong
    and Lazebnik 2011) on the sample, divided by the root mean square of its outputs. Where there are more bits than
    dimensions or rows, the others start at random.
    """
    width = sample.shape[1]
    hidden = 0 if recipe.head == "linear" else recipe.hidden or dimension
    head = make_head(width, recipe.bits, hidden, recipe.seed, recipe.norm, recipe.head == "residual")
    if recipe.head == "mlp":
        return head
    layer = head.output if head.residual is None else head.residual
    solved = min(recipe.bits, width, len(sample) - 1)
    if recipe.init == "itq" and solved:
        tensors = ITQ().fit(sample.cpu().numpy(), solved, recipe.seed)
        weight, bias = (torch.from_numpy(tensors[f"output.{name}"]) for name in ("weight", "bias"))
        scale = F.linear(sample.cpu(), weight, bias).square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        with torch.no_grad():
            layer.weight[:solved], head.output.bias[:solved] = weight / scale, bias / scale
    return head


class PackedHead(nn.Module):
    """The head of any `Model`, closed-form ones too, with the packing behind it: for use, not for training.

    Args:
        tensors: a `Model`'s.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name.replace(".", "_"), torch.tensor(value))
        self.register_buffer("powers", torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, d) -> codes (N, K // 8) uint8, bit j in byte j // 8, least significant first; outputs (N, K)."""
        t = dict(self.named_buffers())
        if "unit_epsilon" in t:
            features = features / torch.maximum(features.norm(dim=1, keepdim=True), t["unit_epsilon"])
        x = features
        if "hidden_weight" in t:
            x = F.gelu(F.linear(x, t["hidden_weight"], t["hidden_bias"]))
        x = F.linear(x, t["output_weight"], t["output_bias"]) if "output_weight" in t else x + t["output_bias"]
        if "residual_weight" in t:
            x = x + F.linear(features, t["residual_weight"])
        if "norm_weight" in t:
            x = F.batch_norm(
                x, t["norm_running_mean"], t["norm_running_var"], t["norm_weight"], t["norm_bias"], eps=NORM_EPS
            )
        if "cosine_phase" in t:
            x = torch.cos(x + t["cosine_phase"])
        bits = torch.unflatten(x > 0, 1, (-1, 8))
        return (bits * t["powers"]).sum(-1, dtype=torch.uint8), x
