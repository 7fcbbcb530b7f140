"""The calibration loss: checks its input and chooses the implementation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdc.kernels import cpu, eager
from sdc.kernels.names import IMPLEMENTATIONS, LOSSES, PAIRS, QUANTIZATIONS


class Loss(NamedTuple):
    """Scalars: total = calibration + quantization_weight · quantization."""

    total: Tensor
    calibration: Tensor
    quantization: Tensor


def sample_length(batch: int, pairs: str) -> int:
    """How many similarities of a batch of B rows are ranked together: the length of `quantiles`.

    B − 1 for `rows` (every row ranks the others), B/2 for `halves`, B(B − 1)/2 for `all`.

    Raises:
        ValueError: fewer than 2 rows, an odd number of rows for `halves`, or an unknown `pairs`.
    """
    if pairs not in PAIRS:
        raise ValueError(f"pairs={pairs!r} is unknown; known: {', '.join(PAIRS)}")
    if batch < 2:
        raise ValueError(f"a batch needs at least 2 rows to have pairs, got {batch}")
    if pairs == "halves" and batch % 2:
        raise ValueError(f"pairs='halves' pairs row i with row i + B/2 and needs an even batch, got {batch} rows")
    return {"rows": batch - 1, "halves": batch // 2, "all": batch * (batch - 1) // 2}[pairs]


def calibration_loss(
    features: Tensor,
    outputs: Tensor,
    quantiles: Tensor,
    *,
    pairs: str = "rows",
    loss: str = "l1",
    quantization: str = "cosine",
    quantization_weight: float = 1.0,
    implementation: str | None = None,
) -> Loss:
    """Similarity distribution calibration (SDC, BMVC 2023, section 3; its steps 1–5).

    The pairs of a sample are ranked by the features' cosine similarity; the similarities of the hash
    outputs, in that order, are pulled to the quantiles of the calibration distribution:
    mean |cos(z_i, z_j) − c_rank(i,j)|. A second term pulls the outputs to their signs.

    Args:
        features: (B, d), rows l2-normalised by the caller; float16, bfloat16, float32 or float64. No gradient.
        outputs: (B, K), raw hash outputs, float32 or float64, differentiable.
        quantiles: (n,) ascending targets in [−1, 1], n = `sample_length(B, pairs)`.
        pairs: `rows`, every row ranks the B − 1 others; `halves`, the paper's, row i with row i + B/2, one
            ranking; `all`, the B(B − 1)/2 pairs in one ranking.
        loss: `l1`, `l2` (squared) or `one-sided` (only similarities above their target count).
        quantization: `cosine`, 1 − cos(z, sign z), or |z − sign z| to the power 1, 2 or 3.
        quantization_weight: λ_q.
        implementation: `eager`, `cpu` or `triton`; None chooses, see `choose`.

    Returns:
        `Loss` of scalars; the two terms are unweighted.

    Raises:
        ValueError: shapes, devices or names that do not fit.
    """
    _check(features, outputs, quantiles, pairs, loss, quantization)
    features = features.detach()
    selected = choose(features, outputs, pairs) if implementation is None else implementation
    _check_implementation(selected, outputs, pairs)
    if selected == "triton":
        calibration, term = _triton(features, outputs, quantiles, pairs, loss)
        if quantization != "cosine":
            term = eager.quantization_term(outputs, quantization)
    else:
        if selected == "cpu":
            calibration = cpu.calibration_rows(features, outputs, quantiles, loss)
        else:
            calibration = eager.calibration_term(features, outputs, quantiles, pairs, loss)
        term = eager.quantization_term(outputs, quantization)
    return Loss(calibration + quantization_weight * term, calibration, term)


def choose(features: Tensor, outputs: Tensor, pairs: str) -> str:
    """The implementation that `implementation=None` takes: a rule of device, pairs, size and precision.

    `triton` for float32-or-smaller outputs on a CUDA device of capability 8.0 or newer, K ≤ 512, and `rows` or
    `halves`; `cpu` for `rows` on the CPU where it is measured to win (see `sdc.kernels.cpu.wins`) and can be
    built; `eager` otherwise.
    """
    if outputs.device.type == "cuda":
        fits = pairs != "all" and outputs.shape[1] <= 512 and torch.float64 not in (features.dtype, outputs.dtype)
        return "triton" if fits and _triton_runs(outputs.device) else "eager"
    if outputs.device.type == "cpu" and pairs == "rows" and cpu.wins(len(outputs)) and cpu.available():
        return "cpu"
    return "eager"


def _triton_runs(device: torch.device) -> bool:
    try:
        from sdc.kernels.gpu import available
    except ImportError:  # Triton is there for Linux only
        return False
    return available(device)


def _triton(features: Tensor, outputs: Tensor, quantiles: Tensor, pairs: str, loss: str) -> tuple[Tensor, Tensor]:
    from sdc.kernels.gpu import calibration_halves, calibration_rows

    term = calibration_rows if pairs == "rows" else calibration_halves
    return term(features, outputs, quantiles, loss)


def _check_implementation(implementation: str, outputs: Tensor, pairs: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation={implementation!r} is unknown; known: {', '.join(IMPLEMENTATIONS)}")
    if implementation == "cpu" and (pairs != "rows" or outputs.device.type != "cpu"):
        raise ValueError(f"implementation='cpu' is for pairs='rows' on the CPU, got {pairs!r} on {outputs.device}")
    if implementation == "triton" and pairs == "all":
        raise ValueError("implementation='triton' is for pairs='rows' and 'halves', got 'all'")


def _check(
    features: Tensor, outputs: Tensor, quantiles: Tensor, pairs: str, loss: str, quantization: str
) -> None:  # fmt: skip
    for name, value, known in (("loss", loss, LOSSES), ("quantization", quantization, QUANTIZATIONS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; known: {', '.join(known)}")
    if features.ndim != 2 or outputs.ndim != 2 or len(features) != len(outputs):
        raise ValueError(
            f"expected features (B, d) and outputs (B, K) of one batch, got {tuple(features.shape)} "
            f"and {tuple(outputs.shape)}"
        )
    if not features.is_floating_point() or not outputs.is_floating_point():
        raise ValueError(f"expected floating-point tensors, got {features.dtype} and {outputs.dtype}")
    length = sample_length(len(outputs), pairs)
    if quantiles.shape != (length,):
        raise ValueError(
            f"pairs={pairs!r} on {len(outputs)} rows needs {length} quantiles, got {tuple(quantiles.shape)}"
        )
    if not features.device == outputs.device == quantiles.device:
        raise ValueError(f"on different devices: {features.device}, {outputs.device}, {quantiles.device}")
