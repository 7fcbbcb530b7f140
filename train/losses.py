"""Losses that several methods share, and how many neighbours are kept.

`nt_xent` is the contrastive loss of SimCLR (Chen et al., ICML 2020, equation 1), for methods with two views.
`neighbor_loss` is the cross entropy of stochastic neighbour embedding (Hinton and Roweis, NIPS 2002).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
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


ANCHORS = 4  # the share of a bank whose rows are anchors is one over this
ENTROPY = 1.2  # of the teacher, in nats
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


def neighbor_loss(rows: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """How badly `logits` tell which rows are near to which: a cross entropy of two softmax distributions.

    Each of the first A rows is an anchor, the whole batch its bank. The target is the softmax of its cosines to the
    bank, divided by the temperature; the anchor itself is left out of both.

    Args:
        rows: (B, d) unit vectors, without gradient.
        logits: (A, B), differentiable.
        temperature: of the target.

    Returns:
        A scalar, the mean over the anchors.
    """
    own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    target = (rows[: len(logits)] @ rows.T / temperature).masked_fill(own, -torch.inf).softmax(1)
    # Not −∞ here: 0 · −∞ is no number.
    return F.cross_entropy(logits.masked_fill(own, torch.finfo(logits.dtype).min / 2), target)


def expected_recall(similarities: Tensor, near: Tensor) -> float:
    """The share of the nearest (Q, k) that are among the k of highest similarity (Q, M), in random orders of ties."""
    count = near.shape[1]
    last = similarities.topk(count).values[:, -1:]
    above, tied = (similarities > last).sum(1), (similarities == last).sum(1)
    found = similarities.gather(1, near)
    expected = (found > last).sum(1) + (found == last).sum(1) * (count - above) / tied
    return float(expected.mean()) / count


def teacher_temperature(unit: Tensor, entropy: float = ENTROPY) -> float:
    """The temperature at which the softmax of the rows' cosines to each other has this mean entropy, in nats.

    Args:
        unit: (n, d) unit vectors; the first quarter are the anchors, all the bank.
    """
    anchors = max(1, len(unit) // ANCHORS)
    cosines = (unit[:anchors] @ unit.T).double().cpu().numpy()
    np.fill_diagonal(cosines, -np.inf)
    cosines -= cosines.max(axis=1, keepdims=True)
    low, high = 1e-4, 1.0
    for _ in range(30):
        middle = math.sqrt(low * high)
        weights = np.exp(cosines / middle)
        weights /= weights.sum(axis=1, keepdims=True)
        found = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1).mean()
        low, high = (middle, high) if found < entropy else (low, middle)
    return middle
