"""The calibration loss of `pairs="rows"` on the CPU: panels of anchor rows, a radix sort of packed keys.

For features X (B, d) with l2-normalised rows, outputs Z (B, K) with h_i = z_i / |z_i|, and targets q (B-1,):

    t_ij = <x_i, x_j>,  s_ij = <h_i, h_j>,  r_ij = rank of t_ij among row i's others (ascending, ties by column)
    L = 1 / (B (B-1)) * sum_{i != j} l(s_ij - q[r_ij]),    l = |.|, (.)^2 or relu
    G_ij = l'(s_ij - q[r_ij]),  dL/dH = (G + G^T) H / (B (B-1)),  dL/dz = (dh - h <h, dh>) / |z|

PyTorch's operators would hold t, s, the sorted indices (int64) and their gradients at once: about 32 bytes a
pair. Here a panel of rows goes through everything while it is in the cache: one product for s, one pass of
`cpu.cpp` that ranks each row and overwrites s with G, two products that add G's share to dL/dH. Of t only
the part from the diagonal on is computed, by symmetry; the rest was kept by earlier panels (at most B^2/4
numbers live at a time). The gradient is finished in the forward pass, so nothing of size B^2 is saved.

Why C++ and not numba: prototypes of the two were within 25 % of each other, C++ ahead; it loads in
milliseconds once built (about a second, once a machine), adds no dependency, and runs on torch's own OpenMP
threads, where numba would bring a second pool that fights the first for the cores. It builds with g++ alone
at first use, into the user's cache folder; where that fails `available()` is false and `sdc.kernels`
uses the eager implementation.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdc.errors import log
from sdc.kernels import native
from sdc.kernels.names import LOSSES
from sdc.kernels.products import product

_RANKS = len(LOSSES)  # the kernel's fourth "loss": ranks in place of dL/ds
_EPS = 1e-12  # the least norm, as in torch.nn.functional.normalize
PANEL = 256  # rows at a time, half as many in small batches (so that they too gain by symmetry)


def calibration_rows(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str = "l1") -> Tensor:
    """The calibration loss, every row against all others; differentiable once, by `outputs`.

    Args:
        features: (B, d) l2-normalised rows, float16, bfloat16, float32 or float64; gets no gradient.
        outputs: (B, K) of any norm; a row of zeros counts as a zero direction.
        quantiles: (B - 1,) target similarities, ascending.
        loss: "l1", "l2" or "one-sided".

    Returns:
        A scalar, float64 if `outputs` are, else float32; t and s are computed in that precision. Sums
        are taken in a fixed order: the same call on the same number of threads gives the same bits.

    Raises:
        RuntimeError: the kernel cannot be built here (ask `available()` first).
        MemoryError: the batch is too large.
    """
    gradient = outputs.requires_grad and torch.is_grad_enabled()
    value: Tensor = torch.ops.sdc.calibration_rows_cpu(features, outputs, quantiles, LOSSES.index(loss), gradient)[0]
    return value


def ranks(features: Tensor) -> Tensor:
    """(B, B) int64: the rank of column j among row i's others as the loss sees it; 0 on the diagonal.

    Exact for float64. For the other types t is quantised to min(24, 32 - log2 B) bits of its row's range, so
    neighbours closer than that may change places.
    """
    size = len(features)
    dtype = _dtype(features)
    ranked = torch.empty(size, size, dtype=torch.int64)
    hashes, targets = torch.zeros(size, 1, dtype=dtype), torch.arange(size - 1, dtype=dtype)
    for start, panel in _panels(features, hashes, targets, _RANKS, torch.empty(size, dtype=torch.float64)):
        ranked[start : start + len(panel)] = panel
    return ranked


@torch.library.custom_op("sdc::calibration_rows_cpu", mutates_args=(), device_types="cpu")
def _calibration_rows(
    features: Tensor, outputs: Tensor, quantiles: Tensor, loss: int, gradient: bool
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient by `outputs` ((0, K) unless asked for)."""
    dtype = _dtype(outputs)
    size, bits = outputs.shape
    z = outputs.to(dtype)
    norms = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    divisors = norms.clamp_min(_EPS)
    hashes = z / divisors
    losses = torch.empty(size, dtype=torch.float64)
    dh = torch.zeros(size if gradient else 0, bits, dtype=dtype)
    for start, slopes in _panels(features, hashes, quantiles.to(dtype).contiguous(), loss, losses):
        if gradient:
            rows = slice(start, start + len(slopes))
            dh.addmm_(slopes.T, hashes[rows])
            dh[rows].addmm_(slopes, hashes)
    pairs = size * (size - 1)
    value = (losses.sum() / pairs).to(dtype)
    if gradient:
        radial = (hashes * dh).sum(1, keepdim=True) * (norms > _EPS)  # a clamped norm is a constant
        dh = dh.addcmul_(hashes, radial, value=-1).div_(divisors * pairs)
    return value, dh.to(outputs.dtype)


@_calibration_rows.register_fake
def _(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: int, gradient: bool) -> tuple[Tensor, Tensor]:
    return outputs.new_empty((), dtype=_dtype(outputs)), outputs.new_empty(
        (outputs.shape[0] if gradient else 0, outputs.shape[1])
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _scale(ctx: Any, by_value: Tensor | None, by_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
    if by_gradient is not None:
        raise NotImplementedError("the calibration loss of the CPU kernel can be differentiated once only")
    (gradient,) = ctx.saved_tensors
    return None, None if by_value is None else gradient * by_value.to(gradient.dtype), None, None, None


_calibration_rows.register_autograd(_scale, setup_context=_keep)


def _dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _panels(
    features: Tensor, hashes: Tensor, targets: Tensor, loss: int, losses: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """(first row, G (n, B)) of each panel in turn, valid until the next; fills `losses` (B,) with rows' sums."""
    kernel, parallel = _kernel(hashes.dtype)
    size, dtype = len(hashes), hashes.dtype
    edge = PANEL if size > 2 * PANEL else PANEL // 2
    if size <= 4 * PANEL:
        features = features.to(dtype)
    room = torch.empty(0 if features.dtype == dtype else 5 * PANEL, features.shape[1], dtype=dtype)
    starts = range(0, size, edge)
    products, slopes = (torch.empty(min(edge, size) * size, dtype=dtype) for _ in range(2))
    stored: dict[tuple[int, int], Tensor] = {}
    for number, start in enumerate(starts):
        n, ahead = min(edge, size - start), size - start
        t = products[: n * ahead].view(n, ahead)
        _similarities(features[start:], t, room)
        s = product(hashes[start : start + n], hashes, out=slopes[: n * size].view(n, size))
        for later in range(number + 1, len(starts)):
            stored[number, later] = torch.empty(n, min(edge, size - starts[later]), dtype=dtype)
        row = [stored.pop((earlier, number)) for earlier in range(number)] + [t]
        row += [stored[number, later] for later in range(number + 1, len(starts))]
        blocks = (ctypes.c_void_p * len(row))(*(block.data_ptr() for block in row))
        if kernel(
            t.data_ptr(), blocks, number, edge, size, n, s.data_ptr(), targets.data_ptr(), losses[start:].data_ptr(),
            loss, parallel, torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(f"the calibration loss of {size} rows does not fit into the memory: use smaller batches")
        yield start, s


def _similarities(features: Tensor, out: Tensor, room: Tensor) -> None:
    """out (n, m) = the first n rows times all m, transposed, in out's precision.

    Features of another type are converted a slice at a time into `room`: allocated anew, the slices would
    leave holes in the heap as large as the whole.
    """
    n = len(out)
    if features.dtype == out.dtype:
        product(features[:n], features, out=out)
        return
    rows, slices = room[:n].copy_(features[:n]), room[n:]
    for start in range(0, len(features), len(slices)):
        part = features[start : start + len(slices)]
        product(rows, slices[: len(part)].copy_(part), out=out[:, start : start + len(part)])


def wins(size: int) -> bool:
    """Whether this kernel beats the eager implementation on a batch of `size` rows.

    The two differ by fixed costs a call, so the crossover depends on B alone: measured forward and backward
    with `bench/cpu_rule_bench.py` for d = 64 ... 4096 and K = 16 ... 512 on one and two threads of an AMD Zen 5,
    eager is up to 5 % faster at 16 rows, the kernel nowhere slower from 48 on, and its lead grows from there.
    """
    return size >= 48


def available() -> bool:
    """Whether the kernel can run here; builds it at the first call. Says once, in the log, why it can't."""
    return _load() is not None


def _kernel(dtype: torch.dtype) -> tuple[Any, ctypes.c_void_p]:
    loaded = _load()
    if loaded is None:
        raise RuntimeError("the CPU kernel is not available here (the log says why); use implementation='eager'")
    library, parallel = loaded
    return (library.sdc_panel_double if dtype == torch.float64 else library.sdc_panel_float), parallel


@functools.cache
def _load() -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
    """The kernel and torch's own GOMP_parallel, whatever OpenMP runtime this torch came with."""
    try:
        library = ctypes.CDLL(str(native.build(Path(__file__).with_name("cpu.cpp"))))
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        parallel = ctypes.cast(torch_library.GOMP_parallel, ctypes.c_void_p)
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError) as error:
        log.warning("the CPU kernel is not available, plain PyTorch takes its place: %s", native.reason(error))
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_long
    for function in (library.sdc_panel_float, library.sdc_panel_double):
        function.restype = ctypes.c_int
        function.argtypes = [
            pointer, pointer, number, number, number, number, pointer, pointer, pointer, ctypes.c_int, pointer,
            ctypes.c_uint,
        ]  # fmt: skip
    return library, parallel
