"""Principal axes."""

from __future__ import annotations

import numpy as np

from sdc.devices import decomposing
from sdc.errors import SdcError, UsageError


def principal_axes(features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean (d,) and the `count` leading principal axes (count, d) of features (N, d), largest first.

    Raises:
        SdcError: their covariance is not finite in float32.
        UsageError: the features have fewer dimensions, or fewer rows, than `count`.
    """
    from scipy.linalg import eigh

    rows, dimension = features.shape
    if count > dimension or count >= rows:
        raise UsageError(
            f"{count} bits need as many principal axes: the features have {dimension} dimensions and "
            f"{rows} training rows; use fewer --bits, or lsh"
        )
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = features - mean
    covariance = (centred.T @ centred).astype(np.float64) / rows
    if not np.isfinite(covariance).all():
        largest = np.abs(features).max()
        if not np.isfinite(largest):  # they were divided by deviations that are 0 in 32 bits
            raise SdcError("the features differ too little for 32-bit floats: scale them, e.g. to unit length")
        raise SdcError(f"the features are too large: found {largest:g}; scale them, e.g. to unit length")
    with decomposing(dimension):
        _, vectors = eigh(covariance, subset_by_index=[dimension - count, dimension - 1])
    return mean, np.ascontiguousarray(vectors[:, ::-1].T.astype(np.float32))
