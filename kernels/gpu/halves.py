"""The paper's pairing, row i with row i + N (N = B/2), one ranking: one launch forward, one backward.

Forward, every program makes the similarities of a few pairs and takes a ticket; the one that draws the
last ticket sees everybody's similarities and sorts them.
"""

# Triton reads these signatures itself; a tensor there has no type that mypy knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sdc.kernels.gpu.backward import raw_gradient
from sdc.kernels.gpu.network import inverse_norm, packed_keys, pair_loss, pair_slope, rank_of, sort_keys


@triton.jit
def halves_kernel(
    X_ptr,  # (2N, d) float16, bfloat16 or float32: the features
    Z_ptr,  # (2N, K) float32: the raw outputs
    Q_ptr,  # (N,) float32: the target quantiles, by rank
    pairs_ptr,  # (3, N) float32, scratch: t, s and the quantization term of each pair
    G_ptr,  # (N,) float32, out: slopes ℓ'(s_i − c_rank(i))
    calibration_ptr, quantization_ptr,  # scalars, out
    ticket_ptr,  # () int32: 0 before, 0 after
    X_stride, Z_stride,
    N, d, K,
    PAIRS: tl.constexpr,  # a program
    DEPTH: tl.constexpr,  # columns of X a step
    LOG_N: tl.constexpr, THREAD_BITS: tl.constexpr,
    BLOCK_K: tl.constexpr,  # ≥ K
    LOSS: tl.constexpr,
):  # fmt: skip
    """Grid (⌈N / PAIRS⌉,)."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    mask = pair < N
    t = _feature_similarity(X_ptr, pair, mask, X_stride, N, d, PAIRS, DEPTH)
    z_i, z_j = _load_pair(Z_ptr, pair, mask, Z_stride, N, K, BLOCK_K)
    inverse_i = inverse_norm(tl.sum(z_i * z_i, axis=1))
    inverse_j = inverse_norm(tl.sum(z_j * z_j, axis=1))
    s = tl.sum(z_i * z_j, axis=1) * inverse_i * inverse_j
    cosines = tl.sum(tl.abs(z_i), axis=1) * inverse_i + tl.sum(tl.abs(z_j), axis=1) * inverse_j
    tl.store(pairs_ptr + pair, t, mask=mask)
    tl.store(pairs_ptr + N + pair, s, mask=mask)
    tl.store(pairs_ptr + 2 * N + pair, 1.0 - 0.5 * cosines * tl.rsqrt(tl.cast(K, tl.float32)), mask=mask)
    # All of this program's stores, then its ticket (release); the last one then sees all (acquire).
    tl.debug_barrier()
    ticket = tl.atomic_add(ticket_ptr, 1, sem="acq_rel", scope="gpu")
    if ticket == tl.num_programs(0) - 1:
        _rank_pairs(Q_ptr, pairs_ptr, G_ptr, calibration_ptr, quantization_ptr, N, LOG_N, THREAD_BITS, LOSS)
        tl.store(ticket_ptr, 0)


@triton.jit
def _feature_similarity(X_ptr, pair, mask, stride, N, d, PAIRS: tl.constexpr, DEPTH: tl.constexpr):
    products = tl.zeros((PAIRS, DEPTH), tl.float32)
    rows_i = X_ptr + pair[:, None].to(tl.int64) * stride
    rows_j = X_ptr + (pair + N)[:, None].to(tl.int64) * stride
    for start in range(0, d, DEPTH):
        k = start + tl.arange(0, DEPTH)
        inside = mask[:, None] & (k < d)[None, :]
        a = tl.load(rows_i + k[None, :], mask=inside, other=0.0).to(tl.float32)
        b = tl.load(rows_j + k[None, :], mask=inside, other=0.0).to(tl.float32)
        products += a * b
    return tl.sum(products, axis=1)


@triton.jit
def _load_pair(Z_ptr, pair, mask, stride, N, K, BLOCK_K: tl.constexpr):
    k = tl.arange(0, BLOCK_K)
    inside = mask[:, None] & (k < K)[None, :]
    row_i, row_j = pair[:, None].to(tl.int64), (pair + N)[:, None].to(tl.int64)
    z_i = tl.load(Z_ptr + row_i * stride + k[None, :], mask=inside, other=0.0)
    z_j = tl.load(Z_ptr + row_j * stride + k[None, :], mask=inside, other=0.0)
    return z_i, z_j


@triton.jit
def _rank_pairs(
    Q_ptr, pairs_ptr, G_ptr, calibration_ptr, quantization_ptr, N,
    LOG_N: tl.constexpr, THREAD_BITS: tl.constexpr, LOSS: tl.constexpr,
):  # fmt: skip
    index = tl.arange(0, 1 << LOG_N)
    inside = index < N
    # Other programs wrote these: read them from L2, past this processor's own cache.
    t = tl.load(pairs_ptr + index, mask=inside, other=0.0, cache_modifier=".cg")
    keys = sort_keys(packed_keys(t, inside, index, LOG_N), LOG_N, THREAD_BITS)
    pair = keys & ((1 << LOG_N) - 1)
    rank = rank_of(index, LOG_N, THREAD_BITS)
    paired = rank < N
    s = tl.load(pairs_ptr + N + pair, mask=paired, other=0.0, cache_modifier=".cg")
    quantile = tl.load(Q_ptr + rank, mask=paired, other=0.0)
    difference = tl.where(paired, s - quantile, 0.0)
    tl.store(calibration_ptr, tl.sum(pair_loss(difference, LOSS), axis=0) / N)
    tl.store(G_ptr + pair, pair_slope(difference, LOSS), mask=paired)
    terms = tl.load(pairs_ptr + 2 * N + index, mask=inside, other=0.0, cache_modifier=".cg")
    tl.store(quantization_ptr, tl.sum(terms, axis=0) / N)


@triton.jit
def halves_backward_kernel(
    Z_ptr,  # (2N, K) float32: the raw outputs
    G_ptr,  # (N,) float32: slopes
    dZ_ptr,  # (2N, K) float32, out
    d_calibration_ptr, d_quantization_ptr,  # scalars: the upstream gradients
    Z_stride, dZ_stride,
    N, K,
    PAIRS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (⌈N / PAIRS⌉,). dL/dh_i = c · G_i · h_{i+N} and the other way round, c = dL/dcalibration / N."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    mask = pair < N
    z_i, z_j = _load_pair(Z_ptr, pair, mask, Z_stride, N, K, BLOCK_K)
    slope = (tl.load(G_ptr + pair, mask=mask, other=0.0) * (tl.load(d_calibration_ptr) / N))[:, None]
    pull = tl.load(d_quantization_ptr) * tl.rsqrt(tl.cast(K, tl.float32)) / (2 * N)
    h_i = z_i * inverse_norm(tl.sum(z_i * z_i, axis=1))[:, None]
    h_j = z_j * inverse_norm(tl.sum(z_j * z_j, axis=1))[:, None]
    k = tl.arange(0, BLOCK_K)
    inside = mask[:, None] & (k < K)[None, :]
    out_i = dZ_ptr + pair[:, None].to(tl.int64) * dZ_stride + k[None, :]
    out_j = dZ_ptr + (pair + N)[:, None].to(tl.int64) * dZ_stride + k[None, :]
    tl.store(out_i, raw_gradient(z_i, slope * h_j, pull), mask=inside)
    tl.store(out_j, raw_gradient(z_j, slope * h_i, pull), mask=inside)
