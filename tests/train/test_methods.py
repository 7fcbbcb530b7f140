"""Closed-form methods against independent properties."""

from __future__ import annotations

import numpy as np
import pytest

import sdc
from sdc.errors import UsageError
from sdc.train.methods import METHODS, load_method
from sdc.train.methods.itq import ITQ
from sdc.train.methods.random_rotation import rotation
from sdc.train.pca import principal_axes

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((600, 20)) @ RNG.standard_normal((20, 32)) + 3).astype(np.float32)


@pytest.mark.parametrize("name", sorted({*METHODS} - {"wch"}))  # which takes patch tokens, see test_wch.py
def test_every_method_makes_codes(name):
    codes = sdc.Hasher(bits=32, method=name, epochs=1, batch_size=64).fit(X).encode(X)
    assert codes.shape == (600, 4)
    assert codes.dtype == np.uint8
    assert len(np.unique(codes, axis=0)) > 100


def test_lsh_is_signs_of_uncentred_gaussian_projections():
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
    with pytest.raises(UsageError, match="at most --bits 32, not 64"):
        sdc.Hasher(bits=64, method="sign").fit(X)


def test_sign_of_fewer_bits_keeps_the_first_dimensions():
    np.testing.assert_array_equal(sdc.Hasher(bits=16, method="sign").fit(X).outputs(X), X[:, :16])


@pytest.mark.parametrize("bits", [8, 32, 72])
def test_random_rotation_stacks_rotations_of_centred_features(bits):
    method = load_method("random-rotation")
    tensors = method.fit(X, bits, seed=0)
    weight = tensors["output.weight"]
    assert weight.shape == (bits, 32)
    for start in range(0, bits, 32):
        block = weight[start : start + 32]
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-5)
    assert len(np.unique(np.round(weight, 4), axis=0)) == bits
    np.testing.assert_allclose((X @ weight.T + tensors["output.bias"]).mean(0), 0, atol=1e-4)
    assert np.abs(method.fit(X, bits, seed=1)["output.weight"] - weight).max() > 0.1


def test_random_rotations_are_uniformly_distributed():
    """Of a Haar-distributed matrix every entry is symmetric about 0; QR's own signs would leave the diagonal uneven."""
    turns = np.array([rotation(np.random.default_rng(seed), 4, 4) for seed in range(2000)])
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(4), turns.shape), atol=1e-12)
    np.testing.assert_allclose(turns.mean(0), 0, atol=0.06)
    np.testing.assert_allclose((turns**2).mean(0), 0.25, atol=0.03)
    short = rotation(np.random.default_rng(0), 3, 7)
    np.testing.assert_allclose(short @ short.T, np.eye(3), atol=1e-12)
