"""The calibration loss for any training loop, and the search's Hamming distances.

    import torch.nn.functional as F
    from scipy.stats import beta
    from sdc.kernels import calibration_loss, quantile_table, sample_length

    quantiles = torch.from_numpy(quantile_table(beta(5, 5).ppf, sample_length(256, "rows")))   # (255,), once
    for features in batches:                                  # (256, d) of a frozen backbone
        outputs = head(features)                              # (256, K)
        loss = calibration_loss(F.normalize(features), outputs, quantiles)
        loss.total.backward()

The maths, the shapes and types, and which implementation runs when: `kernels/README.md` and
`calibration_loss`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sdc.kernels.byte_tables import best_scores, refine, table_scores, whole_products
from sdc.kernels.hamming import available as hamming_available
from sdc.kernels.hamming import key_positions
from sdc.kernels.hamming import nearer as hamming_nearer
from sdc.kernels.hamming import nearest as hamming_nearest
from sdc.kernels.names import LOSSES, PAIRS, QUANTIZATIONS
from sdc.kernels.quantiles import quantile_table

if TYPE_CHECKING:
    from sdc.kernels.eager import teacher_order
    from sdc.kernels.functional import Loss, calibration_loss, sample_length
    from sdc.kernels.products import linear

__all__ = [
    "LOSSES",
    "PAIRS",
    "QUANTIZATIONS",
    "Loss",
    "best_scores",
    "calibration_loss",
    "hamming_available",
    "hamming_nearer",
    "hamming_nearest",
    "key_positions",
    "linear",
    "quantile_table",
    "refine",
    "sample_length",
    "table_scores",
    "teacher_order",
    "whole_products",
]


def __getattr__(name: str) -> Any:
    home = {"teacher_order": "eager", "linear": "products"}.get(name, "functional")
    if name in __all__:  # these need torch, and the search must not wait for it
        return getattr(importlib.import_module(f"sdc.kernels.{home}"), name)
    raise AttributeError(f"module 'sdc.kernels' has no attribute {name!r}")
