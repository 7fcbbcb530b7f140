"""Methods by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdc.train.methods.base import ClosedForm
from sdc.train.methods.registry import method_module

if TYPE_CHECKING:
    from sdc.train.methods.gradient_method import GradientMethod


def load_method(name: str) -> ClosedForm | type[GradientMethod]:
    """The `METHOD` of a method's module: a ClosedForm, or a class of GradientMethod."""
    method: ClosedForm | type[GradientMethod] = method_module(name).METHOD
    return method
