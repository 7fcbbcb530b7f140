"""The hash head φ: features (B, d) -> continuous outputs (B, K)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        if self.hidden is not None:
            features = F.gelu(self.hidden(features))
        normed: Tensor = self.norm(self.output(features))
        return normed


def make_head(dimension: int, bits: int, hidden: int, seed: int) -> HashHead:
    """A head with seeded initial weights; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HashHead(dimension, bits, hidden)
