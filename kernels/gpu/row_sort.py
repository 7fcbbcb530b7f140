"""K2: ranks the row of each anchor, compares it with the quantiles, and leaves the slopes for the backward.

One program takes one row i: it sorts the B − 1 other columns by t_ij, looks s_ij up in that order, adds up
ℓ(s_ij − c_rank), and scatters the slope ℓ' back to column j of G. The quantization term of row i rides along.
"""

# Triton reads these signatures itself; a tensor there has no type that mypy knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sdc.kernels.gpu.network import inverse_norm, packed_keys, pair_loss, pair_slope, rank_of, sort_keys


@triton.jit
def row_sort_kernel(
    T_ptr,  # (n_rows, S) float32: similarities of the features
    S_ptr,  # (n_rows, S) float32: similarities of the outputs
    P_ptr,  # (2^LOG_N,) float32: quantiles by position
    Z_ptr,  # (B, K) float32: the raw outputs
    G_ptr,  # (B, S) int8 (float16 for l2), out: slopes ℓ'(s_ij − c_rank(i,j)), 0 on the diagonal and in the padding
    calibration_ptr,  # (B,) float32, out: mean of ℓ over a row's pairs
    quantization_ptr,  # (B,) float32, out: 1 − cos(z_i, sign z_i)
    T_stride, Z_stride,  # of a row, in elements; T_stride is S, also of the slopes
    B, K,
    LOG_N: tl.constexpr, THREAD_BITS: tl.constexpr,
    BLOCK_K: tl.constexpr,  # ≥ K
    LOSS: tl.constexpr,
    GRADIENT: tl.constexpr,  # whether G is wanted
):  # fmt: skip
    """Grid (B,)."""
    row = tl.program_id(0)
    column = tl.arange(0, 1 << LOG_N)
    start = row.to(tl.int64) * T_stride
    inside = column < B
    t = tl.load(T_ptr + start + column, mask=inside, other=0.0)
    keys = packed_keys(t, inside & (column != row), column, LOG_N)
    keys = sort_keys(keys, LOG_N, THREAD_BITS)
    # From here on in the order of positions: place p holds the column of rank `rank_of(p)`.
    sorted_column = keys & ((1 << LOG_N) - 1)
    paired = rank_of(column, LOG_N, THREAD_BITS) < B - 1
    s = tl.load(S_ptr + start + sorted_column, mask=paired, other=0.0)
    difference = tl.where(paired, s - tl.load(P_ptr + column), 0.0)
    tl.store(calibration_ptr + row, tl.sum(pair_loss(difference, LOSS), axis=0) / (B - 1))
    if GRADIENT:
        slope = pair_slope(difference, LOSS).to(G_ptr.dtype.element_ty)
        tl.store(G_ptr + start + sorted_column, slope, mask=sorted_column < T_stride)
    quantize_row(Z_ptr, quantization_ptr, row, Z_stride, K, BLOCK_K)


@triton.jit
def quantize_row(Z_ptr, out_ptr, row, stride, K, BLOCK_K: tl.constexpr):
    """1 − cos(z, sign z) = 1 − |z|₁ / (|z|₂ √K)."""
    k = tl.arange(0, BLOCK_K)
    z = tl.load(Z_ptr + row.to(tl.int64) * stride + k, mask=k < K, other=0.0)
    cosine = tl.sum(tl.abs(z), axis=0) * inverse_norm(tl.sum(z * z, axis=0)) * tl.rsqrt(tl.cast(K, tl.float32))
    tl.store(out_ptr + row, 1.0 - cosine)
