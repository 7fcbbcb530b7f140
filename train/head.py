"""The hash head φ: features (B, d) -> continuous outputs (B, K)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc.train.model import NORM_EPS


class HashHead(nn.Module):
    """Linear–BatchNorm, or Linear–GELU–Linear–BatchNorm where `hidden` > 0 (the paper's supplement).

    Args:
        dimension: d, of the features.
        bits: K, of the codes.
        hidden: width of the hidden layer; 0 for none.
    """

    def __init__(self, dimension: int, bits: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dimension, hidden) if hidden else None
        self.output = nn.Linear(hidden or dimension, bits)
        self.norm = nn.BatchNorm1d(bits)

    def forward(self, features: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.project(features))
        return normed

    def project(self, features: Tensor) -> Tensor:
        """The outputs (B, K) before the batch norm, each of its own row alone."""
        if self.hidden is not None:
            features = F.gelu(self.hidden(features))
        projected: Tensor = self.output(features)
        return projected


def make_head(dimension: int, bits: int, hidden: int, seed: int) -> HashHead:
    """A head with seeded initial weights; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HashHead(dimension, bits, hidden)


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
        x = features
        if "hidden_weight" in t:
            x = F.gelu(F.linear(x, t["hidden_weight"], t["hidden_bias"]))
        x = F.linear(x, t["output_weight"], t["output_bias"]) if "output_weight" in t else x + t["output_bias"]
        if "norm_weight" in t:
            x = F.batch_norm(
                x, t["norm_running_mean"], t["norm_running_var"], t["norm_weight"], t["norm_bias"], eps=NORM_EPS
            )
        bits = torch.unflatten(x > 0, 1, (-1, 8))
        return (bits * t["powers"]).sum(-1, dtype=torch.uint8), x
