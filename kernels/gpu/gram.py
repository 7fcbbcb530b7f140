"""K1: the two similarity matrices of a batch, t = X Xᵀ and s = H Hᵀ with h = z / |z|, tile by tile.

One program makes one 64 × 64 (or 32 × 32) tile of t or of s. t takes the features in the precision they
are stored in, with float32 accumulation; s is made of the raw outputs, whose norms fall out of the same
loop, so that no pass over Z has to normalise first.
"""

# Triton reads these signatures itself; a tensor there has no type that mypy knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sdc.kernels.gpu.network import inverse_norm, rank_of


@triton.jit
def gram_kernel(
    X_ptr,  # (B, d) float16, bfloat16 or float32: the features
    Z_ptr,  # (B, K) float32: the raw outputs
    Q_ptr,  # (B − 1,) float32: the target quantiles, by rank
    T_ptr,  # (n_rows, S) float32, out: similarities of the features
    S_ptr,  # (n_rows, S) float32, out: similarities of the outputs
    P_ptr,  # (2^LOG_N,) float32, out: the quantiles by position (see `rank_of`), 0 beyond the last
    X_stride, Z_stride, T_stride,  # of a row, in elements; T_stride is S for both matrices
    B, d, K,
    first_row, n_rows,  # the panel: rows first_row … first_row + n_rows − 1 of the matrices
    TILE: tl.constexpr,
    DEPTH_X: tl.constexpr, DEPTH_Z: tl.constexpr,  # columns of X and of Z a step
    LOG_N: tl.constexpr, THREAD_BITS: tl.constexpr,
    PRECISION: tl.constexpr,  # of float32 features: "tf32" or "tf32x3"
    SYMMETRIC: tl.constexpr,  # the panel is the whole matrix: make the upper tiles, mirror them
):  # fmt: skip
    """Grid (row tiles, column tiles, 2): z = 0 makes t, z = 1 makes s and puts the quantiles in place."""
    tile_i, tile_j = tl.program_id(0), tl.program_id(1)
    wanted = (tile_j >= tile_i) | (not SYMMETRIC)
    is_s = tl.program_id(2) == 1
    if is_s & (tile_i == 0):
        # 2·TILE positions for each column tile cover 2^LOG_N < 2B.
        position = tile_j * 2 * TILE + tl.arange(0, 2 * TILE)
        rank = rank_of(position, LOG_N, THREAD_BITS)
        quantile = tl.load(Q_ptr + rank, mask=rank < B - 1, other=0.0)
        tl.store(P_ptr + position, quantile, mask=position < (1 << LOG_N))
    if wanted:
        local = tile_i * TILE + tl.arange(0, TILE)
        i = first_row + local
        j = tile_j * TILE + tl.arange(0, TILE)
        i_mask, j_mask = local < n_rows, j < B
        tile = tl.zeros((TILE, TILE), tl.float32)
        if is_s:
            tile = _output_tile(Z_ptr, i, j, i_mask, j_mask, Z_stride, K, tile, DEPTH_Z)
            out_ptr = S_ptr
        else:
            tile = _feature_tile(X_ptr, i, j, i_mask, j_mask, X_stride, d, tile, DEPTH_X, PRECISION)
            out_ptr = T_ptr
        place = local[:, None] * T_stride + j[None, :]
        tl.store(out_ptr + place, tile, mask=i_mask[:, None] & j_mask[None, :])
        # Not on the diagonal: there both stores would race for the same places.
        if SYMMETRIC and tile_j > tile_i:
            mirrored = j[:, None] * T_stride + i[None, :]
            tl.store(out_ptr + mirrored, tl.trans(tile), mask=j_mask[:, None] & i_mask[None, :])


@triton.jit
def _feature_tile(X_ptr, i, j, i_mask, j_mask, stride, d, tile, DEPTH: tl.constexpr, PRECISION: tl.constexpr):
    rows = X_ptr + i[:, None].to(tl.int64) * stride
    columns = X_ptr + j[None, :].to(tl.int64) * stride
    for start in range(0, d, DEPTH):
        k = start + tl.arange(0, DEPTH)
        a = tl.load(rows + k[None, :], mask=i_mask[:, None] & (k < d)[None, :], other=0.0)
        b = tl.load(columns + k[:, None], mask=j_mask[None, :] & (k < d)[:, None], other=0.0)
        tile = tl.dot(a, b, tile, input_precision=PRECISION)
    return tile


@triton.jit
def _output_tile(Z_ptr, i, j, i_mask, j_mask, stride, K, tile, DEPTH: tl.constexpr):
    rows = Z_ptr + i[:, None].to(tl.int64) * stride
    columns = Z_ptr + j[None, :].to(tl.int64) * stride
    i_squares = tl.zeros((tile.shape[0],), tl.float32)
    j_squares = tl.zeros((tile.shape[1],), tl.float32)
    for start in range(0, K, DEPTH):
        k = start + tl.arange(0, DEPTH)
        a = tl.load(rows + k[None, :], mask=i_mask[:, None] & (k < K)[None, :], other=0.0)
        b = tl.load(columns + k[:, None], mask=j_mask[None, :] & (k < K)[:, None], other=0.0)
        i_squares += tl.sum(a * a, axis=1)
        j_squares += tl.sum(b * b, axis=0)
        tile = tl.dot(a, b, tile, input_precision="tf32x3")
    return tile * inverse_norm(i_squares)[:, None] * inverse_norm(j_squares)[None, :]
