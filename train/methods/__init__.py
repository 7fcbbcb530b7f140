"""Hashing methods: closed-form and trained ones, one a file, found by name."""

import importlib
from typing import TYPE_CHECKING, Any

from sdc.train.methods.base import PUBLISHED, ClosedForm
from sdc.train.methods.itq import ITQ
from sdc.train.methods.loading import load_method
from sdc.train.methods.registry import CALIBRATED, METHODS, published_settings

if TYPE_CHECKING:
    from sdc.train.methods.gradient_method import GradientMethod

__all__ = [
    "CALIBRATED",
    "ITQ",
    "METHODS",
    "PUBLISHED",
    "ClosedForm",
    "GradientMethod",
    "load_method",
    "published_settings",
]


def __getattr__(name: str) -> Any:
    if name == "GradientMethod":  # it needs torch
        return importlib.import_module("sdc.train.methods.gradient_method").GradientMethod
    raise AttributeError(f"module 'sdc.train.methods' has no attribute {name!r}")
