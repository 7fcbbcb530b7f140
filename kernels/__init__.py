"""`sdc.kernels`: the calibration loss, for any training loop.

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

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdc.kernels.functional import Loss, calibration_loss, sample_length
    from sdc.kernels.quantiles import quantile_table

__all__ = ["Loss", "calibration_loss", "quantile_table", "sample_length"]


def __getattr__(name: str) -> Any:
    # The kernel of the search is here too, and must not wait for torch.
    if name == "quantile_table":
        from sdc.kernels.quantiles import quantile_table

        return quantile_table
    if name in __all__:
        from sdc.kernels import functional

        return getattr(functional, name)
    raise AttributeError(f"module 'sdc.kernels' has no attribute {name!r}")
