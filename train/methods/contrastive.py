"""NT-Xent, the contrastive loss of SimCLR (Chen et al., ICML 2020, equation 1), for methods with two views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
