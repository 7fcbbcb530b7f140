"""Closed-form methods against independent properties."""

from __future__ import annotations

import numpy as np
import pytest

import sdc
from sdc.artifacts import UsageError
from sdc.train.methods import METHODS, load_method
from sdc.train.methods.itq import ITQ, principal_axes

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((600, 20)) @ RNG.standard_normal((20, 32)) + 3).astype(np.float32)


def test_every_method_loads_and_makes_codes():
    for name in METHODS:
        bits = 32
        codes = sdc.Hasher(bits=bits, method=name, **({"epochs": 1} if name == "sdc" else {})).fit(X).encode(X)
        assert load_method(name)
        assert codes.shape == (600, bits // 8)
        assert codes.dtype == np.uint8


def test_lsh_is_the_sign_of_gaussian_projections_without_centring():
    tensors = load_method("lsh").fit(X, 4096, seed=1)
    w = tensors["output.weight"]
    assert not tensors["output.bias"].any()
    assert abs(w.mean()) < 0.01
    assert abs(w.std() - 1) < 0.01
    # Charikar: P[bits differ] = θ/π
    a, b = X[0], X[1]
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    differ = (np.sign(w @ a) != np.sign(w @ b)).mean()
    assert differ == pytest.approx(angle / np.pi, abs=0.03)


def test_principal_axes_are_those_of_the_svd():
    mean, axes = principal_axes(X, 5)
    np.testing.assert_allclose(mean, X.mean(0), atol=1e-5)
    expected = np.linalg.svd(X - X.mean(0), full_matrices=False)[2][:5]
    np.testing.assert_allclose(np.abs((axes * expected).sum(1)), 1, atol=1e-4)


def test_itq_rotates_orthogonally_and_its_error_falls():
    mean, axes = principal_axes(X, 16)
    v = (X - mean) @ axes.T
    v /= np.abs(v).mean()
    errors = []
    for iterations in (1, 2, 4, 8, 16, 50):
        solver = ITQ()
        solver.iterations = iterations
        r = solver.rotation(v, seed=0)
        np.testing.assert_allclose(r @ r.T, np.eye(16), atol=1e-5)
        errors.append(float(np.square(np.sign(v @ r.T) - v @ r.T).sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.97 * errors[0]


def test_itq_codes_are_balanced_where_pca_is_centred():
    codes = np.sign(sdc.Hasher(bits=16, method="itq").fit(X).outputs(X))
    assert np.abs(codes.mean(0)).max() < 0.2


def test_itq_needs_enough_dimensions_and_rows():
    with pytest.raises(UsageError, match="64 bits need as many principal axes: the features have 32 dimensions"):
        sdc.Hasher(bits=64, method="itq").fit(X)
    with pytest.raises(UsageError, match="10 training rows"):
        sdc.Hasher(bits=16, method="itq").fit(X[:10])


def test_sign_is_one_bit_a_dimension():
    hasher = sdc.Hasher(bits=32, method="sign").fit(X)
    np.testing.assert_array_equal(hasher.outputs(X), X)
    with pytest.raises(UsageError, match="--bits 32, not 64"):
        sdc.Hasher(bits=64, method="sign").fit(X)
