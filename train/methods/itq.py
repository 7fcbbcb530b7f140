"""ITQ: iterative quantization, Gong and Lazebnik, CVPR 2011.

PCA to K dimensions, then the rotation R that brings the projections V nearest to their signs: alternately
B = sign(VR) and R the orthogonal Procrustes solution, 50 times from a seeded
random rotation. (FAISS' ITQMatrix is not used: its quantization error does not fall at every step.)
"""

from __future__ import annotations

import numpy as np

from sdc.artifacts import SdcError, UsageError
from sdc.train.methods import ClosedForm


class ITQ(ClosedForm):
    iterations = 50

    def fit(self, features: np.ndarray, bits: int, seed: int) -> dict[str, np.ndarray]:
        """Raises UsageError where there are fewer dimensions, or fewer rows, than bits."""
        mean, axes = principal_axes(features, bits)
        rotation = self.rotation((features - mean) @ axes.T, seed)
        weight = (rotation @ axes).astype(np.float32)
        return {"output.weight": weight, "output.bias": -weight @ mean}

    def rotation(self, projections: np.ndarray, seed: int) -> np.ndarray:
        """R (K, K), orthogonal: sign(R v) is the code of a centred projection v (K,)."""
        from scipy.linalg import orthogonal_procrustes
        from threadpoolctl import threadpool_limits

        bits = projections.shape[1]
        turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((bits, bits)))[0].astype(np.float32)
        # The decomposition of a small matrix in several threads takes up to 15 times as long as in one.
        with threadpool_limits(1, user_api="blas"):
            for _ in range(self.iterations):
                turn, _ = orthogonal_procrustes(projections, np.sign(projections @ turn))
        return np.ascontiguousarray(turn.T)


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
        raise SdcError(f"the features are too large: found {np.abs(features).max():g}; scale them, e.g. to unit length")
    _, vectors = eigh(covariance, subset_by_index=[dimension - count, dimension - 1])
    return mean, np.ascontiguousarray(vectors[:, ::-1].T.astype(np.float32))


METHOD = ITQ()
