"""The calibration loss in plain PyTorch: one similarity matrix, one sort, one gather, autograd."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def calibration_term(features: Tensor, outputs: Tensor, quantiles: Tensor, pairs: str, loss: str) -> Tensor:
    """mean ℓ(s_π(i) − c_i): the similarities of the outputs, in the order of the features', against the targets."""
    targets, codes = teacher_order(features, F.normalize(outputs), pairs)
    with torch.no_grad():
        order = torch.sort(targets, dim=-1, stable=True)[1][..., : quantiles.numel()]
    difference = codes.gather(-1, order) - quantiles
    if loss == "l1":
        return difference.abs().mean()
    if loss == "l2":
        return difference.square().mean()
    return difference.relu().mean()


def teacher_order(features: Tensor, hashes: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    """The similarities to rank and those to calibrate, a sample a row: (B, B), (1, B/2) or (1, B(B−1)/2).

    With `rows` the diagonal ranks last (+inf), behind the B − 1 real pairs of its row.
    """
    if pairs == "halves":
        half = features.shape[0] // 2
        targets = (features[:half].float() * features[half:].float()).sum(1)
        return targets[None], (hashes[:half] * hashes[half:]).sum(1)[None]
    # Half precision is storage: the similarities are ranked in the precision of the outputs.
    features = features.to(hashes.dtype)
    targets, codes = features @ features.T, hashes @ hashes.T
    if pairs == "rows":
        return targets.fill_diagonal_(float("inf")), codes
    i, j = torch.triu_indices(len(features), len(features), 1, device=features.device)
    return targets[i, j][None], codes[i, j][None]


def quantization_term(outputs: Tensor, kind: str) -> Tensor:
    """How far the outputs are from their signs (the paper's step 5 and its variants)."""
    if kind == "cosine":
        return (1 - F.normalize(outputs).abs().sum(1) / math.sqrt(outputs.shape[1])).mean()
    gap = (outputs - outputs.detach().sign()).abs()
    return gap.pow({"l1": 1, "l2": 2, "cubic": 3}[kind]).mean()
