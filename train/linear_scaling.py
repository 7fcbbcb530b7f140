"""The baseline without distribution alignment: the features' own similarities, scaled, are the targets."""

from __future__ import annotations

import torch
from torch import Tensor

from sdc.kernels import Loss, calibration_loss, sample_length, teacher_order


def linear_scaling_loss(
    features: Tensor,
    outputs: Tensor,
    *,
    pairs: str = "rows",
    loss: str = "l1",
    quantization: str = "cosine",
    quantization_weight: float = 1.0,
) -> Loss:
    """`calibration_loss` with the targets 2·(t − min t)/(max t − min t) − 1 in place of quantiles by rank.

    t are the similarities of the batch's features, min and max over all of the batch's pairs. This stretches them to
    [−1, 1] and keeps the shape of their distribution, which is what calibration must beat (the paper's section 3
    changes the shape). Where all t are equal, the targets are 0, the similarity of unrelated codes.

    A target depends on its pair alone, not on the sample the pair is ranked in: `rows`, which has each pair twice, is
    the same as `all`.

    Args:
        features: (B, d), rows l2-normalised by the caller; no gradient.
        outputs: (B, K), raw hash outputs, differentiable.
        pairs, loss, quantization, quantization_weight: as in `sdc.kernels.calibration_loss`.

    Raises:
        ValueError: shapes, devices or names that do not fit.
    """
    sample_length(len(outputs), pairs)
    pairs = "all" if pairs == "rows" else pairs
    with torch.no_grad():
        similarities = teacher_order(features, outputs, pairs)[0].flatten().to(outputs.dtype)
        # The scaling is monotone: in the order of rank, the targets are the sorted and scaled similarities.
        ranked = similarities.sort()[0]
        low, high = ranked[0], ranked[-1]
        targets = torch.where(high > low, 2 * (ranked - low) / (high - low) - 1, 0)
    return calibration_loss(
        features,
        outputs,
        targets,
        pairs=pairs,
        loss=loss,
        quantization=quantization,
        quantization_weight=quantization_weight,
    )
