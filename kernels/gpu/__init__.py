"""The Triton kernels of the calibration loss, for CUDA devices.

`gram` (similarities, tile by tile) → `row_sort` (ranks, loss, slopes) → `backward`, and `halves` for the
paper's pairing; `network` sorts. `config` chooses tiles and warps, `launch` binds them to kernels, `ops` makes
operators of PyTorch of it all (`calibration_rows`, `calibration_halves`), `model` predicts their time.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sdc.kernels.gpu.config import CAPABILITIES, LARGEST_HALVES, LARGEST_SORT, halves_config, rows_config
from sdc.kernels.gpu.model import SortCost

if TYPE_CHECKING:
    from sdc.kernels.gpu.launch import gram_tiles, halves_backward, halves_forward, rows_backward, sorted_rows
    from sdc.kernels.gpu.ops import available, calibration_halves, calibration_rows

__all__ = [
    "CAPABILITIES",
    "LARGEST_HALVES",
    "LARGEST_SORT",
    "SortCost",
    "available",
    "calibration_halves",
    "calibration_rows",
    "gram_tiles",
    "halves_backward",
    "halves_config",
    "halves_forward",
    "rows_backward",
    "rows_config",
    "sorted_rows",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # these need Triton, which is there for Linux only
        home = "ops" if name in ("available", "calibration_halves", "calibration_rows") else "launch"
        return getattr(importlib.import_module(f"sdc.kernels.gpu.{home}"), name)
    raise AttributeError(f"module 'sdc.kernels.gpu' has no attribute {name!r}")
