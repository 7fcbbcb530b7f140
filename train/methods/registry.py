"""Hashing methods, one a file, found by name.

A new method is one file and a line in `METHODS`. The file defines `METHOD` and `SETTINGS`, what the method is published
with as far as that differs from the default recipe. There are two kinds: closed-form methods are solved at once
(`sdc.train.methods.ClosedForm`), trained methods give a loss to the training loop
(`sdc.train.methods.GradientMethod`).
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from sdc.errors import SdcError, unknown_name_error

METHODS = {
    "sdc": "sdc.train.methods.sdc",
    "sdc-contrastive": "sdc.train.methods.sdc_contrastive",
    "cibhash": "sdc.train.methods.cibhash",
    "greedyhash": "sdc.train.methods.greedyhash",
    "bihalf": "sdc.train.methods.bihalf",
    "itq": "sdc.train.methods.itq",
    "neighbors": "sdc.train.methods.neighbors",
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
# Those that rank pairs, by labels if need be, and pull their code similarities to the recipe's calibration. It stands
# here since the commands that ask for it must not wait for torch, which the methods' own files load.
CALIBRATED = ["sdc", "sdc-contrastive"]


def published_settings(name: str) -> dict[str, Any]:
    """The `SETTINGS` of a method's module, fields of a recipe. Raises SdcError where it has none."""
    module = method_module(name)
    if not hasattr(module, "SETTINGS"):
        raise SdcError(
            f"the method {name!r} lacks its settings: define SETTINGS in {module.__name__}, the fields of a recipe "
            "that it is published with, or {} for those of the default recipe"
        )
    settings: dict[str, Any] = module.SETTINGS
    return settings


def method_module(name: str) -> ModuleType:
    """The file of a method. Raises UsageError for an unknown name."""
    if name not in METHODS:
        raise unknown_name_error("method", name, METHODS)
    return importlib.import_module(METHODS[name])
