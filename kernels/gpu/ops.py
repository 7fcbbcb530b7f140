"""The Triton kernels as PyTorch operators: `calibration_rows` and `calibration_halves`.

They are opaque custom operators with fake (meta) implementations and registered gradients, so that
torch.compile keeps them as one node; nothing here reads a value back, so a step never waits for the device
and can be captured in a CUDA graph.

Scratch (t, s, the slopes, the partial sums) comes from `torch.empty`. PyTorch's allocator is already the
cache that is wanted, keyed by device, stream and size: from the second step on it hands the same blocks
back without a call to the driver. A cache of our own would be wrong: memory captured in a CUDA graph
belongs to the graph's pool, and a replay would write to blocks that an eager step on another stream, or a
second graph, still reads. The halves kernel's ticket is zeroed each time for the same reason.

The slopes are outputs, because the gradient needs them until backward: a second forward must not reuse them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import triton
from torch import Tensor

from sdc.kernels.gpu import config, launch

FEATURE_TYPES = (torch.float16, torch.bfloat16, torch.float32)
INTERPRETED = triton.knobs.runtime.interpret


def calibration_rows(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str = "l1") -> tuple[Tensor, Tensor]:
    """The calibration term over all pairs of rows, each row ranking the others, and the quantization term.

    Args:
        features: (B, d) CUDA tensor, B ≥ 2, l2-normalised rows; float16, bfloat16 or float32 are read as
            they are. float32 is multiplied in three TF32 passes (float32's accuracy), or in one: `feature_precision`.
        outputs: (B, K) raw outputs, K ≤ 512, differentiable; computed in float32.
        quantiles: (B − 1,) ascending targets.
        loss: `l1`, `l2` or `one-sided`.

    Returns:
        Two float32 scalars: mean ℓ(s − c) and mean 1 − cos(z, sign z).

    Raises:
        ValueError: not a CUDA device, K or the chip out of range.
    """
    arguments = _prepared(features, outputs, quantiles)
    gradient = outputs.requires_grad and torch.is_grad_enabled()
    calibration, quantization, _ = _rows(*arguments, loss, gradient)
    return calibration, quantization


def calibration_halves(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str = "l1") -> tuple[Tensor, Tensor]:
    """The same two terms over the pairs (i, i + B/2), B even, ranked as one sample.

    Args:
        features, outputs, loss: as in `calibration_rows`.
        quantiles: (B/2,) ascending targets.

    Returns:
        Two float32 scalars.

    Raises:
        ValueError: not a CUDA device, K or the chip out of range.
    """
    calibration, quantization, _ = _halves(*_prepared(features, outputs, quantiles), loss)
    return calibration, quantization


def available(device: torch.device) -> bool:
    """Whether the kernels run there: a CUDA device of capability 8.0 or newer (or Triton's interpreter)."""
    if INTERPRETED:
        return True
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def _prepared(features: Tensor, outputs: Tensor, quantiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if outputs.device.type != "cuda" and not INTERPRETED:
        raise ValueError(f"the Triton kernels need a CUDA device, got tensors on {outputs.device}")
    if features.dtype not in FEATURE_TYPES:
        features = features.float()
    x, z = (t if config.addressable(t) else t.contiguous() for t in (features.detach(), outputs.float()))
    return x, z, quantiles.detach().float().contiguous()


@functools.cache
def _capability(device: torch.device) -> int:
    if device.type != "cuda":
        return 90  # interpreted: any chip's configuration does
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def feature_precision() -> str:
    """How float32 features are multiplied: `tf32` where PyTorch's own products are in TF32, else `tf32x3`."""
    # This is right whichever way it was set; reading `allow_tf32` raises RuntimeError once `fp32_precision` was set.
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def _launch(chosen: launch.Specialization, grid: tuple[int, ...], *arguments: Tensor | int) -> None:
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        chosen.kernel[grid](*arguments, **chosen.options)


@torch.library.custom_op("sdc::calibration_rows", mutates_args=())
def _rows(
    features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(calibration, quantization, slopes); the slopes are empty without `gradient`."""
    B, K = outputs.shape
    rows = config.rows_config(_capability(outputs.device), B, K, 8 * features.element_size())
    slopes = _empty_slopes(outputs, loss, gradient)
    partial = outputs.new_empty(2, B)
    if B <= config.LARGEST_SORT:
        _whole(rows, features, outputs, quantiles, loss, slopes if gradient else None, partial)
    else:
        _panels(rows, features, outputs, quantiles, loss, slopes if gradient else None, partial)
    return partial[0].mean(), partial[1].mean(), slopes


def _stride(B: int) -> int:
    """The padded row of a scratch matrix: a multiple of 16 elements keeps 16-byte loads and stores."""
    return -(-B // 16) * 16


def _empty_slopes(outputs: Tensor, loss: str, gradient: bool) -> Tensor:
    B = outputs.shape[0] if gradient else 0
    return outputs.new_empty((B, _stride(B)), dtype=torch.float16 if loss == "l2" else torch.int8)


def _gram(
    rows: config.Rows, features: Tensor, outputs: Tensor, quantiles: Tensor, first: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """t and s (count, S) of `count` rows from `first` on, and the quantiles by position."""
    (B, d), K = features.shape, outputs.shape[1]
    t, s = outputs.new_empty(2, count, _stride(B)).unbind()
    by_position = outputs.new_empty(1 << rows.sort.log_n)
    tile = rows.gram.tile
    _launch(
        launch.gram_tiles(rows, feature_precision(), symmetric=count == B),
        (triton.cdiv(count, tile), triton.cdiv(B, tile), 2),
        features, outputs, quantiles, t, s, by_position,
        features.stride(0), outputs.stride(0), t.stride(0), B, d, K, first, count,
    )  # fmt: skip
    return t, s, by_position


def _whole(
    rows: config.Rows, features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str,
    slopes: Tensor | None, partial: Tensor,
) -> None:  # fmt: skip
    B, K = outputs.shape
    t, s, by_position = _gram(rows, features, outputs, quantiles, 0, B)
    _launch(
        launch.sorted_rows(rows, loss, gradient=slopes is not None),
        (B,),
        t, s, by_position, outputs, t if slopes is None else slopes, partial[0], partial[1],
        t.stride(0), outputs.stride(0), B, K,
    )  # fmt: skip


def _panels(
    rows: config.Rows, features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str,
    slopes: Tensor | None, partial: Tensor,
) -> None:  # fmt: skip
    """Rows longer than one program sorts: panels of them through `torch.sort`."""
    B = len(outputs)
    for first in range(0, B, config.panel_rows(B)):
        count = min(config.panel_rows(B), B - first)
        t, s, _ = _gram(rows, features, outputs, quantiles, first, count)
        t[:, :B].diagonal(first).fill_(float("inf"))
        order = torch.sort(t[:, :B], dim=1, stable=True)[1][:, :-1]
        difference = s.gather(1, order) - quantiles
        value, slope = _loss(difference, loss)
        torch.mean(value, dim=1, out=partial[0, first : first + count])
        if slopes is not None:
            slopes[first : first + count].zero_().scatter_(1, order, slope.to(slopes.dtype))
    partial[1] = 1 - _cosines(torch.nn.functional.normalize(outputs))


def _cosines(hashes: Tensor) -> Tensor:
    """cos(h, sign h) of each row."""
    return hashes.abs().sum(1) / math.sqrt(hashes.shape[1])


def _loss(difference: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    if loss == "l1":
        return difference.abs(), difference.sign()
    if loss == "l2":
        return difference.square(), 2 * difference
    return difference.relu(), (difference > 0)


@_rows.register_fake
def _(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    return outputs.new_empty(()), outputs.new_empty(()), _empty_slopes(outputs, loss, gradient)


@torch.library.custom_op("sdc::calibration_rows_backward", mutates_args=())
def _rows_backward(outputs: Tensor, slopes: Tensor, d_calibration: Tensor, d_quantization: Tensor) -> Tensor:
    B, K = outputs.shape
    rows = config.rows_config(_capability(outputs.device), B, K, 16)
    d_outputs = outputs.new_empty(B, K)
    _launch(
        launch.rows_backward(rows),
        (triton.cdiv(B, rows.backward.rows),),
        outputs, slopes, d_outputs, d_calibration, d_quantization,
        outputs.stride(0), slopes.stride(0), d_outputs.stride(0), B, K,
    )  # fmt: skip
    return d_outputs


# -------------------------------------------------------------------------------------------- halves


@torch.library.custom_op("sdc::calibration_halves", mutates_args=())
def _halves(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    """(calibration, quantization, slopes (N,))"""
    (B, d), K = features.shape, outputs.shape[1]
    N = B // 2
    chosen = config.halves_config(_capability(outputs.device), N, K)
    if N > config.LARGEST_HALVES:
        return _many_halves(features, outputs, quantiles, loss)
    ticket = torch.zeros((), dtype=torch.int32, device=outputs.device)
    pairs, slopes = outputs.new_empty(3, N), outputs.new_empty(N)
    calibration, quantization = outputs.new_empty(()), outputs.new_empty(())
    _launch(
        launch.halves_forward(chosen, loss),
        (triton.cdiv(N, chosen.pairs),),
        features, outputs, quantiles, pairs, slopes, calibration, quantization, ticket,
        features.stride(0), outputs.stride(0), N, d, K,
    )  # fmt: skip
    return calibration, quantization, slopes


def _many_halves(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    """More pairs than one program sorts, through `torch.sort`."""
    N = len(quantiles)
    h = torch.nn.functional.normalize(outputs)
    t = torch.linalg.vecdot(features[:N].float(), features[N:].float())
    order = torch.sort(t, stable=True)[1]
    value, slope = _loss(torch.linalg.vecdot(h[:N], h[N:])[order] - quantiles, loss)
    slopes = torch.empty_like(quantiles).scatter_(0, order, slope.to(quantiles.dtype))
    return value.mean(), (1 - _cosines(h)).mean(), slopes


@_halves.register_fake
def _(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    return outputs.new_empty(()), outputs.new_empty(()), outputs.new_empty(outputs.shape[0] // 2)


@torch.library.custom_op("sdc::calibration_halves_backward", mutates_args=())
def _halves_backward(outputs: Tensor, slopes: Tensor, d_calibration: Tensor, d_quantization: Tensor) -> Tensor:
    N, K = len(slopes), outputs.shape[1]
    chosen = config.halves_config(_capability(outputs.device), N, K)
    d_outputs = outputs.new_empty(2 * N, K)
    _launch(
        launch.halves_backward(chosen),
        (triton.cdiv(N, chosen.pairs),),
        outputs, slopes, d_outputs, d_calibration, d_quantization,
        outputs.stride(0), d_outputs.stride(0), N, K,
    )  # fmt: skip
    return d_outputs


# ------------------------------------------------------------------------------------------ gradients


@_rows_backward.register_fake
@_halves_backward.register_fake
def _(outputs: Tensor, slopes: Tensor, d_calibration: Tensor, d_quantization: Tensor) -> Tensor:
    return torch.empty_like(outputs, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[1], output[2])
    ctx.mark_non_differentiable(output[2])
    # Else autograd would fill a matrix of zeros for the slopes' own gradient.
    ctx.set_materialize_grads(False)


def _upstream(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a backward operator takes; a term the loss does not use has no gradient, which is 0."""
    outputs, slopes = ctx.saved_tensors
    d_calibration, d_quantization = (outputs.new_zeros(()) if g is None else g for g in gradients)
    return outputs, slopes, d_calibration, d_quantization


def _rows_gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    return None, _rows_backward(*_upstream(ctx, *gradients[:2])), None, None, None


def _halves_gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    return None, _halves_backward(*_upstream(ctx, *gradients[:2])), None, None


_rows.register_autograd(_rows_gradient, setup_context=_save)
_halves.register_autograd(_halves_gradient, setup_context=_save)
