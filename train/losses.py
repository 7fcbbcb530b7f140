"""Losses that several methods share.

`nt_xent` is the contrastive loss of SimCLR (Chen et al., ICML 2020, equation 1), for methods with two views.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> Tensor:
        return torch.where(outputs > 0, 1.0, -1.0).to(outputs.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def signs(outputs: Tensor) -> Tensor:
    """−1 or +1 for each of the outputs, as they are encoded (0 is −1); the gradient passes straight through."""
    codes: Tensor = _Signs.apply(outputs)
    return codes


def halves_loss(features: Tensor, codes: Tensor) -> Tensor:
    """The mean squared difference of cosines between features (B, p) and codes (B, K).

    Over the ⌊B/2⌋ pairs of row i with row i + ⌊B/2⌋; the last row of an odd batch is in none.
    """
    half = len(codes) // 2
    similarities, targets = (F.cosine_similarity(x[:half], x[half : 2 * half]) for x in (codes, features))
    return F.mse_loss(similarities, targets)


TEMPERATURE = 0.3  # of CIBHash, and of the contrastive term of SDC


def nt_xent(outputs: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """How badly each view of a row finds the row's other view among all views of the batch.

    The mean over the 2B views of −log softmax(cosines with the 2B − 1 others / temperature) at the other view of its
    row. It is log(2B − 1) where all are alike.

    Args:
        outputs: (B, 2, K), differentiable.

    Returns:
        A scalar.
    """
    views = F.normalize(outputs.flatten(0, 1), dim=1)  # rows 2i and 2i + 1 are the views of row i
    logits = views @ views.T / temperature
    logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(views), device=views.device) ^ 1)
