"""Which tile, how many warps: a pure function of the chip and the problem.

The choices come from compiling every candidate ahead of time (registers, shared memory, instructions; see
`sdc.kernels.aot`) and from the model of `sdc.kernels.gpu.model`; no device is asked anything here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

LARGEST_SORT = 16384  # rows that one program of K2 sorts; above, panels go through torch.sort
LARGEST_HALVES = 4096  # pairs that one program of the halves kernel sorts; above, torch.sort
LARGEST_K = 512
PANEL_BYTES = 256 << 20  # scratch of a panel where the whole matrices are not made at once

CAPABILITIES = (80, 86, 89, 90, 100, 120)  # of the chips that `sdc.kernels.aot` compiles for
# Bytes of shared memory a program may use, by compute capability.
_SHARED = {
    80: 166912, 86: 101376, 87: 166912, 89: 101376, 90: 232448, 100: 232448, 103: 232448, 120: 101376, 121: 101376,
}  # fmt: skip


@dataclass(frozen=True)
class Gram:
    """K1: square tiles of `tile`², `depth_x` (`depth_z`) columns of the features (outputs) a step."""

    tile: int
    depth_x: int
    depth_z: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Sort:
    """K2 and the end of the halves kernel: 2^log_n keys, a rank bit below `thread_bits` in lanes and warps."""

    log_n: int
    warps: int

    @property
    def thread_bits(self) -> int:
        """Bits of a position, above the two of a vector, that lanes and warps hold (`network.rank_of`)."""
        return min(self.log_n - 2, 5 + self.warps.bit_length() - 1)


@dataclass(frozen=True)
class Backward:
    """K3: `rows` of the gradient a program, `columns` of G a step, all of K at once in `block_k`."""

    rows: int
    columns: int
    block_k: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Halves:
    """The halves kernel: `pairs` a program, `depth` columns of the features a step, then one sort."""

    pairs: int
    depth: int
    sort: Sort
    block_k: int


@dataclass(frozen=True)
class Rows:
    gram: Gram
    sort: Sort
    backward: Backward


def shared_limit(capability: int) -> int:
    """Shared memory (bytes) a program may use on sm_<capability>.

    Raises:
        ValueError: a chip these kernels don't run on (older than sm_80).
    """
    if capability < 80:
        raise ValueError(f"the Triton kernels need compute capability 8.0 or newer, got sm_{capability}")
    # A chip that is not listed is taken for the smallest known: it may be slower than need be, never too big.
    return _SHARED.get(capability, min(_SHARED.values()))


def addressable(matrix: Any) -> bool:
    """Whether the kernels take a matrix as it lies in memory: rows in one piece, at offsets below 2³¹ elements.

    The backward kernel of `rows` counts in 32 bits, since 64 would spill registers. What is copied for it fits: its B²
    slopes would fill any memory long before B·K reaches 2³¹.
    """
    return bool(matrix.stride(1) == 1 and len(matrix) * matrix.stride(0) < 1 << 31)


def sort_config(n: int) -> Sort:
    """One warp to 512 keys, then 16 keys a thread; 32 at 2^14, where 32 warps would have too few registers."""
    log_n = max(4, (n - 1).bit_length())
    return Sort(log_n, warps=min(16, 1 << max(0, log_n - 9)))


@functools.cache
def rows_config(capability: int, B: int, K: int, bits: int) -> Rows:
    """The configuration of `pairs="rows"` on sm_<capability>.

    Args:
        B: rows of the batch. K: bits of the hash, at most 512. bits: width of a feature (16 or 32).

    Raises:
        ValueError: K or the chip out of range.
    """
    shared = shared_limit(capability)
    block_k = block_of(K)
    return Rows(_gram(shared, B, bits), sort_config(min(B, LARGEST_SORT)), _backward(shared, block_k))


@functools.cache
def halves_config(capability: int, N: int, K: int) -> Halves:
    """The configuration of `pairs="halves"` for N = B/2 pairs.

    Raises:
        ValueError: K or the chip out of range.
    """
    shared_limit(capability)
    return Halves(pairs=4, depth=256, sort=sort_config(min(N, LARGEST_HALVES)), block_k=block_of(K))


def block_of(K: int) -> int:
    """The power of two a row of outputs is loaded as: 16 … 512."""
    if not 1 <= K <= LARGEST_K:
        raise ValueError(f"the Triton kernels take 1 to {LARGEST_K} outputs a row, got {K}")
    return max(16, 1 << (K - 1).bit_length())


def panel_rows(B: int) -> int:
    """How many rows of the similarity matrices are made at once: all of them up to `LARGEST_SORT`."""
    if B <= LARGEST_SORT:
        return B
    # float32 t and s, and torch.sort's copies of values and 64-bit indices
    return max(1, PANEL_BYTES // (32 * B))


def _gram(shared: int, B: int, bits: int) -> Gram:
    # sm_90 and sm_100: the tensor cores take their operands from shared memory. Elsewhere they come through
    # registers, which larger tiles and deeper steps would spill.
    direct = shared > 200_000
    depth = 64 if bits == 16 else 32
    if B <= 512:  # small tiles: enough programs for every processor
        return Gram(tile=32, depth_x=depth, depth_z=16, warps=4, stages=3)
    if direct and B >= 2048:  # half the reads of X
        return Gram(tile=128, depth_x=depth // 2, depth_z=16, warps=8, stages=3)
    return Gram(tile=64, depth_x=depth if direct else depth // 2, depth_z=16, warps=4, stages=3)


def _backward(shared: int, block_k: int) -> Backward:
    if block_k <= 64:
        return Backward(rows=32, columns=64, block_k=block_k, warps=4, stages=3)
    if block_k == 128:
        return Backward(rows=32, columns=64, block_k=block_k, warps=8, stages=3)
    if block_k == 256:
        return Backward(rows=32, columns=32, block_k=block_k, warps=8, stages=3)
    columns = 32 if shared > 128_000 else 16
    return Backward(rows=16, columns=columns, block_k=block_k, warps=8, stages=2)
