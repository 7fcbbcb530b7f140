"""NSH: learning to hash naturally sorts, Yu et al., IJCAI 2022.

Each row's first view sorts the second views of the batch by the similarity of their codes b = tanh(outputs), softly, so
that codes get a gradient. In this order latent vectors are gathered, z = Linear(features) of unit length, and the
sorted noise-contrastive loss wants the `POSITIVES` nearest ones to be similar to the row's own, the others not to be.
The mean of (b − sign b)² is added.

The latent layer serves training alone. It lies beside the head, on the features, not behind it: the codes learn by the
order they give. Sizes and temperatures are those of the implementation by SDC's authors, on frozen features like this
one. Departure from it: there the softmax of the loss is taken twice, here once, as noise-contrastive estimation is
defined.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdc.errors import UsageError
from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.gradient_method import GradientMethod
from sdc.train.recipe import Recipe

LATENT = 1024  # dimensions
POSITIVES = 2
TEMPERATURE = 0.3


class Loss(NamedTuple):
    """Scalars: total = contrastive + quantization."""

    total: Tensor
    contrastive: Tensor
    quantization: Tensor


class NSH(GradientMethod):
    """Raises UsageError for batches without a negative."""

    terms = Loss._fields
    views = 2

    def __init__(self, recipe: Recipe, batch_size: int, sample: Tensor) -> None:
        super().__init__(recipe, batch_size, sample)
        if batch_size <= POSITIVES:
            raise UsageError(
                f"a batch of {batch_size} rows: nsh takes the nearest {POSITIVES} for alike and needs at least one more"
            )
        self.latent = nn.Linear(sample.shape[1], LATENT)

    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        codes = torch.tanh(outputs)
        latents = F.normalize(self.latent(features), dim=-1)
        similarities = (codes[:, 0] @ codes[:, 1].T / codes.shape[-1] + 1) / 2  # 1 − Hamming distance / K
        order = soft_sort(similarities, 1 / codes.shape[-1])  # (B, B, B); a step is the similarity of one bit
        # The gathered vectors' cosines with a row's own are the gathered cosines: no (B, B, LATENT) is needed.
        cosines = torch.einsum("ijk,ik->ij", order, latents[:, 1] @ latents[:, 0].T)
        contrastive = sorted_nce(cosines, POSITIVES, TEMPERATURE)
        quantization = F.mse_loss(codes, codes.detach().sign())
        return Loss(contrastive + quantization, contrastive, quantization)


def soft_sort(scores: Tensor, temperature: float) -> Tensor:
    """The permutation that sorts, relaxed: Prillo and Eisenschlos, ICML 2020, SoftSort with |·|.

    Args:
        scores: (B, n).
        temperature: difference of scores that begins to count.

    Returns:
        (B, n, n), each row of non-negative numbers that sum to 1: entry (·, j, k) is the share of k in place j, the
        largest first.
    """
    ranked = scores.sort(dim=1, descending=True).values
    return torch.softmax(-(ranked.unsqueeze(2) - scores.unsqueeze(1)).abs() / temperature, dim=2)


def sorted_nce(similarities: Tensor, positives: int, temperature: float) -> Tensor:
    """The mean over each row's first `positives` of −log softmax(similarity / temperature) among it and the negatives.

    Args:
        similarities: (B, n), in the order of relevance; those behind the positives are the negatives.
    """
    logits = similarities / temperature
    negatives = logits[:, positives:].logsumexp(1, keepdim=True)
    return F.softplus(negatives - logits[:, :positives]).mean()


METHOD = NSH
SETTINGS = {**PUBLISHED, "batch_size": 50, "lr": 1e-5}
