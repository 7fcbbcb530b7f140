"""Hashing methods, one a file, found by name.

A new method is one file that defines `METHOD`, a line in `METHODS`, and the settings it is published with in
`sdc.train.recipe.METHOD_DEFAULTS`. There are two kinds: closed-form methods are solved at once, trained methods
(`sdc.train.trained.Trained`) give a loss to the training loop.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sdc.train.trained import Trained

METHODS = {
    "sdc": "sdc.train.methods.sdc",
    "sdc-contrastive": "sdc.train.methods.sdc_contrastive",
    "cibhash": "sdc.train.methods.cibhash",
    "greedyhash": "sdc.train.methods.greedyhash",
    "bihalf": "sdc.train.methods.bihalf",
    "itq": "sdc.train.methods.itq",
    "lsh": "sdc.train.methods.lsh",
    "nsh": "sdc.train.methods.nsh",
    "pcah": "sdc.train.methods.pcah",
    "random-rotation": "sdc.train.methods.random_rotation",
    "sh": "sdc.train.methods.sh",
    "ssdh": "sdc.train.methods.ssdh",
    "sign": "sdc.train.methods.sign",
    "tbh": "sdc.train.methods.tbh",
    "wch": "sdc.train.methods.wch",
    "wch-global": "sdc.train.methods.wch_global",
}
# Those that rank pairs, by labels if need be, and pull their code similarities to the recipe's calibration.
CALIBRATED = ("sdc", "sdc-contrastive")


class ClosedForm(ABC):
    """A method solved at once, without gradient steps."""

    sample = 200_000  # rows the solution is computed from, at most

    @abstractmethod
    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """The tensors of a `sdc.train.model.Model` from features (N, d) float32."""


def load_method(name: str) -> ClosedForm | type[Trained]:
    """The `METHOD` of a method's module: a ClosedForm, or a class of Trained."""
    method: ClosedForm | type[Trained] = importlib.import_module(METHODS[name]).METHOD
    return method
