"""Products of float32 matrices on the CPU, by oneDNN where the library that PyTorch takes for them is slow.

PyTorch multiplies with MKL, which on AMD's processors runs at less than half the speed that oneDNN, in the same
PyTorch, reaches there; on Intel's the two are level. No public switch of PyTorch chooses oneDNN and keeps float32:
`torch.set_float32_matmul_precision("medium")` does, and rounds to bfloat16 where the processor has units for that. So
this calls the operator that `torch.compile` makes of linear layers, which is no public one. It is taken only while it
is there, is seen to be exact to float32, and nobody has asked PyTorch for less.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST = 1 << 24  # multiplications of a product: a smaller one takes less time than the call's preparation
_EXACT = 2e-6  # relative to the vectors' lengths: float32 is off by 3e-7, TF32 by 1e-4 and more


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a · bᵀ (M, N) of a (M, K) and b (N, K); in `out` where that is given."""
    if not onednn_wins(a, b):
        return torch.mm(a, b.T) if out is None else torch.mm(a, b.T, out=out)
    found = _onednn(a, b)
    return found if out is None else out.copy_(found)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, differentiable once where oneDNN is taken: x (…, d), weight (h, d), bias (h,)."""
    rows = x.flatten(0, -2) if x.ndim != 2 else x
    if not onednn_wins(rows, weight):
        return F.linear(x, weight, bias)
    found: Tensor = _Linear.apply(rows, weight, bias)
    return found.view(*x.shape[:-1], len(weight))


def onednn_wins(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is taken for a (M, K) times bᵀ: large float32 matrices on an AMD processor."""
    if a.dtype != torch.float32 or b.dtype != torch.float32 or a.device.type != "cpu" or a.ndim != 2:
        return False
    if a.shape[0] * a.shape[1] * b.shape[0] < _LEAST or vendor() != "AuthenticAMD" or torch.compiler.is_compiling():
        return False
    return torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee") and _is_exact()  # type: ignore[attr-defined]


@functools.cache
def vendor() -> str:
    """Who made the processor, as /proc/cpuinfo has it; empty where nothing says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def _onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return found


@functools.cache
def _is_exact() -> bool:
    """Whether the operator is there and multiplies in float32: a variable of oneDNN may tell it to round."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 256, generator=generator) for _ in range(2))
    try:
        off = (_onednn(a, b).double() - a.double() @ b.double().T).abs()
    except (AttributeError, RuntimeError):
        return False
    return bool((off <= _EXACT * a.norm(dim=1)[:, None] * b.norm(dim=1)).all())


class _Linear(torch.autograd.Function):
    """x · weightᵀ + bias and its gradients, all by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        wanted_x, wanted_weight, wanted_bias = ctx.needs_input_grad
        return (
            _onednn(gradient, weight.T) if wanted_x else None,
            _onednn(gradient.T, x.T) if wanted_weight else None,
            gradient.sum(0) if wanted_bias else None,
        )
