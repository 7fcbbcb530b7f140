"""What the kernels should take on a chip, from counts: a prediction to hold a measurement against, never one.

Each kernel takes the longest of what its bytes (from memory, from the cache), its products and its
instructions take; a step is the sum of its kernels and of their launches. Waiting for loads is not
modelled. Products are counted at half the chip's peak, which tiles of this size reach at most, memory at
85 %. Eager PyTorch is counted by the bytes its operators move; its sort moves keys and 64-bit indices in
several passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdc.kernels.gpu import config

PRODUCT_EFFICIENCY, MEMORY_EFFICIENCY = 0.5, 0.85
LAUNCH = 3e-6  # seconds from one short kernel's start to the next one's


@dataclass(frozen=True)
class Chip:
    """Vendors' figures: multiprocessors, clock (Hz), memory (bytes/s), dense products (flop/s)."""

    capability: int
    processors: int
    clock: float
    bandwidth: float
    cache: float  # bytes/s from the L2 cache, as microbenchmarks report it
    half: float
    tf32: float
    float32: float


CHIPS = {
    "A100": Chip(80, 108, 1.41e9, 2.04e12, 4.0e12, 312e12, 156e12, 19.5e12),
    "H100": Chip(90, 132, 1.755e9, 3.35e12, 5.5e12, 989e12, 495e12, 67e12),
    "H200": Chip(90, 132, 1.98e9, 4.8e12, 5.5e12, 989e12, 495e12, 67e12),
}


@dataclass(frozen=True)
class SortCost:
    """Of one row sorted: a warp's instructions, those of them in the integer pipe, and its exchanges."""

    instructions: int
    alu: int
    exchanges: int


@dataclass(frozen=True)
class Prediction:
    """Seconds, by part."""

    parts: Mapping[str, float]

    @property
    def forward(self) -> float:
        return sum(seconds for name, seconds in self.parts.items() if name != "backward")

    @property
    def step(self) -> float:
        return sum(self.parts.values())


def predict_rows(chip: Chip, B: int, d: int, K: int, bits: int, sort: SortCost, tf32: bool = False) -> Prediction:
    """Forward and backward of `calibration_rows`.

    Args:
        bits: width of a feature, 16 or 32. sort: of the row sort at this B, as `sdc.kernels.aot` counts it.
        tf32: float32 features in one TF32 pass rather than three.
    """
    pairs = B * B
    moved = fused_bytes(B, d, K, bits)
    # Half of the tiles are mirrored, so the flops are half of 2 B² d; s takes three TF32 passes.
    features = pairs * d / (chip.half if bits == 16 else chip.tf32 if tf32 else chip.tf32 / 3)
    gram = (features + pairs * K / (chip.tf32 / 3)) / PRODUCT_EFFICIENCY
    # Each of those tiles reads 2 · tile rows of X.
    tile = config.rows_config(chip.capability, B, K, bits).gram.tile
    reads = pairs * d * (bits // 8) / tile / chip.cache
    # Warp instructions a second of all processors: 4 a cycle, integers 2, shared memory and shuffles 1.
    issue = chip.processors * chip.clock
    warps = config.sort_config(B).warps
    cycles = max(sort.instructions / 4, sort.alu / 2, sort.exchanges) * warps * B
    # Slopes are scattered a byte at a time, about 96 a cycle into the L2 cache.
    scatter = pairs / (96 * chip.clock)
    products = 2 * 2 * pairs * K / chip.half / PRODUCT_EFFICIENCY
    return Prediction(
        {
            "gram": max(gram, reads, _seconds(chip, moved["gram"])) + LAUNCH,
            "row sort": max(cycles / issue, scatter, _seconds(chip, moved["row sort"])) + LAUNCH,
            "mean": 2 * LAUNCH,
            "backward": max(products, _seconds(chip, moved["backward"])) + LAUNCH,
        }
    )


def fused_bytes(B: int, d: int, K: int, bits: int) -> dict[str, int]:
    """Bytes each kernel must move if nothing stayed in a cache between two kernels (l1)."""
    pairs = B * B
    return {
        "gram": bits // 8 * B * d + 4 * B * K + 8 * pairs,  # reads X, Z; writes t, s
        "row sort": 9 * pairs + 4 * B * K,  # reads t, s; writes the slopes
        "backward": pairs + 8 * B * K,  # reads the slopes, Z; writes dZ
    }


def predict_eager(chip: Chip, B: int, d: int, K: int, tf32: bool = False) -> Prediction:
    """The same step in eager PyTorch (`sdc.kernels.eager`), float32 features."""
    moved = eager_bytes(B, d, K)
    forward = sum(size for name, size in moved.items() if not name.startswith("backward"))
    backward = sum(moved.values()) - forward
    peak = (chip.tf32 if tf32 else chip.float32) * PRODUCT_EFFICIENCY
    products = 2 * B * B * (d + K) / peak
    return Prediction(
        {
            "forward": products + _seconds(chip, forward) + 15 * LAUNCH,
            "backward": 4 * B * B * K / peak + _seconds(chip, backward) + 15 * LAUNCH,
        }
    )


def eager_bytes(B: int, d: int, K: int) -> dict[str, int]:
    """Bytes that eager PyTorch's operators move, operator by operator."""
    pairs = B * B
    return {
        "t = X Xᵀ": 4 * pairs + 8 * B * d,
        "normalize Z": 16 * B * K,
        "s = H Hᵀ": 4 * pairs + 8 * B * K,
        "sort": 40 * pairs,  # a copy of the keys, the indices, passes over both
        "gather": 16 * pairs,
        "subtract": 8 * pairs,
        "absolute": 8 * pairs,
        "mean": 4 * pairs,
        "backward of mean, absolute, subtract": 24 * pairs,
        "backward of gather": 24 * pairs,
        "backward of s": 8 * pairs + 24 * B * K,
        "backward of normalize": 24 * B * K,
    }


def _seconds(chip: Chip, size: float) -> float:
    return size / (chip.bandwidth * MEMORY_EFFICIENCY)
