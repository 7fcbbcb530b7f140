"""A hashing method: solved at once (ClosedForm), or trained step by step (sdc.train.methods.gradient_method)."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from sdc.train.methods import METHODS

if TYPE_CHECKING:
    from sdc.train.methods.gradient_method import GradientMethod


class ClosedForm(ABC):
    """A method solved at once, without gradient steps."""

    sample = 200_000  # rows the solution is computed from, at most

    @abstractmethod
    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """The tensors of a `sdc.train.model.Model` from features (N, d) float32."""


def load_method(name: str) -> ClosedForm | type[GradientMethod]:
    """The `METHOD` of a method's module: a ClosedForm, or a class of GradientMethod."""
    method: ClosedForm | type[GradientMethod] = importlib.import_module(METHODS[name]).METHOD
    return method
