"""K3: from the slopes G to the gradient of the raw outputs, in one pass.

    dL/dH = c · (G + Gᵀ) H,   c = dL/dcalibration / (B (B − 1))
    dL/dH −= e · sign Z,      e = dL/dquantization / (B √K)
    dL/dz = (u − ⟨u, h⟩ h) / |z|,  u = dL/dh

The sum G + Gᵀ of signs is exact in float16; H is split into a float16 and its float16 remainder, so that
two half-precision products have float32's accuracy (1.3e-7 measured).
"""

# Triton reads these signatures itself; a tensor there has no type that mypy knows.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from sdc.kernels.gpu.network import inverse_norm


@triton.jit
def backward_kernel(
    Z_ptr,  # (B, K) float32: the raw outputs
    G_ptr,  # (B, S) int8 or float16: slopes
    dZ_ptr,  # (B, K) float32, out
    d_calibration_ptr, d_quantization_ptr,  # scalars: the upstream gradients
    Z_stride, G_stride, dZ_stride,
    B, K,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # of G, a program and a step
    BLOCK_K: tl.constexpr,  # ≥ K
):  # fmt: skip
    """Grid (⌈B / ROWS⌉,)."""
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, BLOCK_K)
    i_mask, k_mask = i < B, k < K
    i_rows = G_ptr + i[:, None].to(tl.int64) * G_stride
    u = tl.zeros((ROWS, BLOCK_K), tl.float32)
    for start in range(0, B, COLUMNS):
        j = start + tl.arange(0, COLUMNS)
        j_mask = j < B
        mask = i_mask[:, None] & j_mask[None, :]
        g = tl.load(i_rows + j[None, :], mask=mask, other=0)
        mirrored = tl.load(G_ptr + j[None, :].to(tl.int64) * G_stride + i[:, None], mask=mask, other=0)
        both = (g + mirrored).to(tl.float16)
        z = tl.load(Z_ptr + j[:, None] * Z_stride + k[None, :], mask=j_mask[:, None] & k_mask[None, :], other=0.0)
        h = z * inverse_norm(tl.sum(z * z, axis=1))[:, None]
        coarse = h.to(tl.float16)
        u = tl.dot(both, coarse, u)
        u = tl.dot(both, (h - coarse.to(tl.float32)).to(tl.float16), u)
    i_k_mask = i_mask[:, None] & k_mask[None, :]
    z = tl.load(Z_ptr + i[:, None] * Z_stride + k[None, :], mask=i_k_mask, other=0.0)
    pairs = B.to(tl.float32) * (B - 1).to(tl.float32)
    scale = tl.load(d_calibration_ptr) / pairs
    pull = tl.load(d_quantization_ptr) * tl.rsqrt(tl.cast(K, tl.float32)) / B
    dz = raw_gradient(z, u * scale, pull)
    tl.store(dZ_ptr + i[:, None] * dZ_stride + k[None, :], dz, mask=i_k_mask)


@triton.jit
def raw_gradient(z, dh, pull):
    """dL/dz (rows, K) from dL/dh of the calibration term and e = `pull` of the cosine quantization term."""
    inverse = inverse_norm(tl.sum(z * z, axis=1))[:, None]
    h = z * inverse
    u = dh - tl.where(z > 0, pull, tl.where(z < 0, -pull, 0.0))
    return (u - tl.sum(u * h, axis=1)[:, None] * h) * inverse
