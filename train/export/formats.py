"""File formats that `sdc export` writes, one a file, found by name.

Each takes `features` (N, d) float32, any N, and gives `codes` (N, K // 8) uint8 and `outputs` (N, K) float32: bit j of
a code is [output_j > 0], in byte j // 8, least significant first. A new format is one file that defines `FORMAT` and
one line in `FORMATS`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from sdc.train.model import Model

FORMATS = {
    "onnx": "sdc.train.export.onnx",
    "torch": "sdc.train.export.torch_program",
}

Engine = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # features (N, d) float32 -> codes, outputs


class Format(ABC):
    """A kind of export. The file's bytes are a function of the model alone."""

    @abstractmethod
    def build(self, model: Model) -> bytes:
        """The file's bytes. SdcError where a package is missing."""

    @abstractmethod
    def describe(self, data: bytes) -> dict[str, Any]:
        """The `metadata` in a file's bytes. ValueError unless they are whole and ours."""

    @abstractmethod
    def open(self, data: bytes) -> Engine:
        """The file's bytes, ready to run."""


def load_format(name: str) -> Format:
    """The `FORMAT` of a format's module. Raises SdcError where a package that it needs is missing."""
    form: Format = importlib.import_module(FORMATS[name]).FORMAT
    return form


def metadata(model: Model) -> dict[str, Any]:
    """What an export records of its model; all of it text."""
    return {
        "fingerprint": model.fingerprint,
        "method": str(model.metadata.get("method")),
        "bits": str(model.bits),
        "bit_order": "bit j is [output j > 0], in byte j // 8, least significant first",
    }
