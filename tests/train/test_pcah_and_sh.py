"""Methods on principal axes, one of which gives a bit (PCAH) or several (SH)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import sdc
from sdc.errors import SdcError, UsageError
from sdc.train.methods import load_method
from sdc.train.methods.sh import smallest_modes
from sdc.train.model import Model

PCA = pytest.importorskip("sklearn.decomposition").PCA

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((600, 20)) @ RNG.standard_normal((20, 24)) + 3).astype(np.float32)


def outputs(method, bits, train, x=None):
    """The continuous outputs of a method, for any number of bits."""
    return Model(load_method(method).fit(train, bits, 0), {}).outputs(train if x is None else x)


def unpacked(codes):
    return np.unpackbits(codes, axis=1, bitorder="little").astype(bool)


def assert_same_up_to_axes(found, expected):
    """Bits (N, K) are the same, or all turned, bit by bit: nothing says which way an axis points."""
    turned = found[0] ^ expected[0]
    np.testing.assert_array_equal(found, expected ^ turned)


def test_pcah_is_the_signs_of_sklearns_principal_components():
    components = PCA(16, svd_solver="full").fit(X.astype(np.float64)).transform(X.astype(np.float64))
    decided = (np.abs(components) > 1e-3).all(axis=1)
    assert decided.sum() > 550
    found = unpacked(sdc.Hasher(bits=16, method="pcah").fit(X).encode(X))
    assert_same_up_to_axes(found[decided], (components > 0)[decided])


def test_pcah_needs_as_many_dimensions_as_bits():
    with pytest.raises(UsageError, match="32 bits need as many principal axes: the features have 24 dimensions"):
        sdc.Hasher(bits=32, method="pcah").fit(X)


def box():
    """A grid of 6 × 6 points with sides of 4 and 3: its principal axes are x and y, its centre (2, 1.5)."""
    return np.array(
        list(itertools.product([0, 0.5, 1.5, 2.5, 3.5, 4], [0, 0.5, 1, 2, 2.5, 3])), np.float32
    )  # no point lies on an edge of a half or a quarter


def test_sh_by_hand():
    """On a box with sides of 4 and 3 the frequencies, in units of π, are

    | m | side 4 (x) | side 3 (y) |
    |---|------------|------------|
    | 1 | 1/4        | 1/3        |
    | 2 | 1/2        | 2/3        |
    | 3 | 3/4        | 1          |

    The five smallest, 1/4 x, 1/3 y, 1/2 x, 2/3 y, 3/4 x, are the bits in this order. cos(ω x) > 0 then means:
      1/4 x: x < 2
      1/3 y: y < 3/2
      1/2 x: x < 1 or x > 3
      2/3 y: y < 3/4 or y > 9/4
      3/4 x: x < 2/3 or 2 < x < 10/3
    The point (0, 0) has all five bits 1, (1.5, 2) has 1 0 0 0 0, (2.5, 1) has 0 1 0 0 1 and (4, 3) has 0 0 1 1 0.
    """
    points = box()
    x, y = points.T
    expected = np.stack(
        [x < 2, y < 1.5, (x < 1) | (x > 3), (y < 0.75) | (y > 2.25), (x < 2 / 3) | ((x > 2) & (x < 10 / 3))], axis=1
    )
    worked = {(0, 0): "11111", (1.5, 2): "10000", (2.5, 1): "01001", (4, 3): "00110"}
    for point, bits in worked.items():
        (row,) = np.flatnonzero((points == point).all(axis=1))
        assert "".join(map(str, expected[row].astype(int))) == bits
    assert_same_up_to_axes(outputs("sh", 5, points) > 0, expected)


def test_sh_is_the_product_of_sines_of_the_original():
    """Weiss et al. state a bit as the sign of Π sin(π/2 + ω x) over all axes, ω = 0 on all but one of them."""
    bits = 40
    pca = PCA(24, svd_solver="full").fit(X.astype(np.float64))
    v = pca.transform(X.astype(np.float64))
    x = v - v.min(axis=0)
    ranges = v.max(axis=0) - v.min(axis=0)
    bounds = np.ceil((bits + 1) * ranges / ranges.max()).astype(int)
    modes = [(m * np.pi / r, axis) for axis, r in enumerate(ranges) for m in range(1, bounds[axis])]
    values = np.ones((bits, len(X)))
    for bit, (omega, axis) in enumerate(sorted(modes)[:bits]):
        for each in range(24):
            values[bit] *= np.sin(np.pi / 2 + (omega if each == axis else 0) * x[:, each])
    found = outputs("sh", bits, X).T
    turned = np.sign((found * values).sum(axis=1))
    np.testing.assert_allclose(found, values * turned[:, None], atol=2e-3)


def test_the_frequencies_are_the_smallest_sorted_and_not_zero():
    ranges = np.array([1.0, 5, 0, 3, 4])
    axes, frequencies = smallest_modes(ranges, 12)
    every = sorted(m * np.pi / r for r in ranges[ranges > 0] for m in range(1, 100))
    np.testing.assert_allclose(frequencies, every[:12])
    np.testing.assert_allclose(frequencies * ranges[axes] / np.pi, np.round(frequencies * ranges[axes] / np.pi))
    assert (frequencies > 0).all()
    assert set(axes.tolist()) == {0, 1, 3, 4}
    tensors = load_method("sh").fit(X, 32, 0)
    lengths = np.linalg.norm(tensors["output.weight"], axis=1)
    assert (np.diff(lengths) > -1e-5 * lengths[:-1]).all()
    v = PCA(24).fit_transform(X)
    every = sorted(m * np.pi / r for r in np.ptp(v, axis=0) for m in range(1, 33))
    np.testing.assert_allclose(lengths, every[:32], rtol=1e-3)


def test_sh_makes_more_bits_than_there_are_dimensions_or_rows():
    codes = sdc.Hasher(bits=64, method="sh").fit(X).encode(X)
    assert len(np.unique(codes, axis=0)) > 590
    few = sdc.Hasher(bits=64, method="sh").fit(X[:5])
    assert len(np.unique(few.encode(X[:5]), axis=0)) == 5
    assert np.isfinite(few.outputs(X)).all()


def test_sh_of_rows_that_do_not_differ_is_refused():
    with pytest.raises(SdcError, match="all training rows are equal"):
        sdc.Hasher(bits=8, method="sh").fit(np.repeat(X[:1], 9, axis=0))
    with pytest.raises(UsageError, match="1 training rows"):
        sdc.Hasher(bits=8, method="sh").fit(X[:1])
