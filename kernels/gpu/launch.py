"""What is fixed when a kernel is compiled, in one place for the launcher (`ops`) and for `sdc.kernels.aot`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from sdc.kernels.gpu import backward, gram, halves, row_sort
from sdc.kernels.gpu.config import Halves, Rows
from sdc.kernels.names import LOSSES


@dataclass(frozen=True)
class Specialization:
    """A kernel with its compile-time arguments: `s.kernel[grid](*arguments, **s.options)`."""

    kernel: Any
    constants: dict[str, Any]
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, Any]:
        return {**self.constants, "num_warps": self.warps, "num_stages": self.stages}


@functools.cache  # a step asks each time
def gram_tiles(rows: Rows, precision: str, symmetric: bool) -> Specialization:
    g, sort = rows.gram, rows.sort
    constants = {
        "TILE": g.tile, "DEPTH_X": g.depth_x, "DEPTH_Z": g.depth_z,
        "LOG_N": sort.log_n, "THREAD_BITS": sort.thread_bits,
        "PRECISION": precision, "SYMMETRIC": symmetric,
    }  # fmt: skip
    return Specialization(gram.gram_kernel, constants, g.warps, g.stages)


@functools.cache
def sorted_rows(rows: Rows, loss: str, gradient: bool) -> Specialization:
    constants = {
        "LOG_N": rows.sort.log_n, "THREAD_BITS": rows.sort.thread_bits, "BLOCK_K": rows.backward.block_k,
        "LOSS": LOSSES.index(loss), "GRADIENT": gradient,
    }  # fmt: skip
    return Specialization(row_sort.row_sort_kernel, constants, rows.sort.warps, 1)


@functools.cache
def rows_backward(rows: Rows) -> Specialization:
    b = rows.backward
    constants = {"ROWS": b.rows, "COLUMNS": b.columns, "BLOCK_K": b.block_k}
    return Specialization(backward.backward_kernel, constants, b.warps, b.stages)


@functools.cache
def halves_forward(c: Halves, loss: str) -> Specialization:
    constants = {
        "PAIRS": c.pairs, "DEPTH": c.depth, "LOG_N": c.sort.log_n, "THREAD_BITS": c.sort.thread_bits,
        "BLOCK_K": c.block_k, "LOSS": LOSSES.index(loss),
    }  # fmt: skip
    return Specialization(halves.halves_kernel, constants, c.sort.warps, 1)


@functools.cache
def halves_backward(c: Halves) -> Specialization:
    constants = {"PAIRS": c.pairs, "BLOCK_K": c.block_k}
    return Specialization(halves.halves_backward_kernel, constants, 4 if c.block_k <= 128 else 8, 1)
