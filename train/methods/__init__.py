"""Hashing methods, one a file, found by name.

A new method is one file that defines `METHOD` and one line in `METHODS`. There are two kinds:
closed-form methods fit a linear map to the features, trained methods give a loss to the training loop.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from sdc.kernels import Loss
    from sdc.train.recipe import Recipe

METHODS = {
    "sdc": "sdc.train.methods.sdc",
    "itq": "sdc.train.methods.itq",
    "lsh": "sdc.train.methods.lsh",
    "random-rotation": "sdc.train.methods.random_rotation",
    "sign": "sdc.train.methods.sign",
}


class ClosedForm(ABC):
    """A method solved at once, without gradient steps."""

    sample = 200_000  # rows the solution is computed from, at most

    @abstractmethod
    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """The tensors of a `sdc.train.model.Model` from features (N, d) float32."""


class Trained(ABC):
    """A method that gives the loss of a batch; made once a run.

    Args:
        recipe: the run's settings.
        batch_size: rows of every batch (smaller than the recipe's where the set is smaller).
        device: where the batches are.
    """

    @abstractmethod
    def __init__(self, recipe: Recipe, batch_size: int, device: Any) -> None: ...

    @abstractmethod
    def loss(self, features: Tensor, outputs: Tensor) -> Loss:
        """The loss of one batch: features (B, d) as stored, outputs (B, K) of the head."""


def load_method(name: str) -> ClosedForm | type[Trained]:
    """The `METHOD` of a method's module: a ClosedForm, or a class of Trained."""
    method: ClosedForm | type[Trained] = importlib.import_module(METHODS[name]).METHOD
    return method
