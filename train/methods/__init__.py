"""Hashing methods, one a file, found by name.

A new method is one file that defines `METHOD`, a line in `METHODS`, and the settings it is published with in
`sdc.train.recipe.METHOD_DEFAULTS`. There are two kinds: closed-form methods are solved at once, trained methods
(`sdc.train.methods.gradient_method.GradientMethod`) give a loss to the training loop.
"""

from __future__ import annotations

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
