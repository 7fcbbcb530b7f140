"""The space a head is trained in, and that a model works on the features themselves all the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdc
from sdc.errors import SdcError
from sdc.train.feature_space import local_whitening, principal_space
from sdc.train.head import start_head
from sdc.train.loop import fit
from sdc.train.methods.itq import ITQ
from sdc.train.model import Model
from sdc.train.presets import make_recipe

RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((12, 48))
X = (CENTRES[RNG.integers(12, size=900)] + RNG.standard_normal((900, 48)) * np.geomspace(0.2, 2, 48)).astype(np.float32)
CPU = torch.device("cpu")


@pytest.mark.parametrize("locality", [0.0, 0.5, 1.0])
def test_the_space_is_centred_and_of_unit_size(locality):
    mapped = principal_space(X, 16, locality, CPU)(torch.from_numpy(X))
    assert mapped.shape == (900, 48)
    assert mapped.mean(0).abs().max() < 1e-4
    assert mapped.square().mean().item() == pytest.approx(1, abs=1e-3)


def test_without_locality_only_axes_turn_so_cosines_stay():
    mapped = principal_space(X, 16, 0.0, CPU)(torch.from_numpy(X))
    centred = X - X.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    found = torch.nn.functional.normalize(mapped)
    np.testing.assert_allclose(found @ found.T, unit @ unit.T, atol=1e-5)


def test_four_axes_a_bit_but_at_least_256():
    wide = RNG.standard_normal((700, 400)).astype(np.float32)
    shapes = [principal_space(wide, bits, 0.0, CPU).axes.shape for bits in (64, 80, 512)]
    assert shapes == [(400, 256), (400, 320), (400, 400)]
    assert principal_space(wide[:20], 64, 1.0, CPU).axes.shape == (400, 19)


def test_whitening_evens_out_the_differences_of_neighbours():
    """At power 1/2, the covariance C of the differences becomes λ / (λ + mean λ): of its directions none exceeds 1."""
    rows = X - X.mean(0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def covariance(turned):
        similarities = unit @ unit.T
        np.fill_diagonal(similarities, -np.inf)
        nearest = np.argsort(-similarities, axis=1)[:, :5]
        differences = (turned[:, None] - turned[nearest]).reshape(-1, turned.shape[1])
        return differences.T @ differences / len(differences)

    before = np.linalg.eigvalsh(covariance(unit))
    after = np.linalg.eigvalsh(covariance(unit @ local_whitening(rows, 0.5)))
    np.testing.assert_allclose(np.sort(after), np.sort(before / (before + before.mean())), rtol=1e-3)
    assert before.max() / before.min() > 3 * after.max() / after.min()


def test_rows_that_are_all_alike_are_no_failure():
    same = np.ones((300, 24), np.float32)
    codes = sdc.Hasher(bits=8, epochs=1, locality=1.0).fit(same).encode(same)
    assert (codes == codes[0]).all()


def test_values_too_large_for_float32_are_refused():
    with pytest.raises(SdcError, match="too large: found 1e\\+30"):
        fit(np.where(X > 0, np.float32(1e30), X), np.arange(900), make_recipe(bits=8, epochs=1))


def test_denormal_values_are_called_too_alike():
    with pytest.raises(SdcError, match="differ too little for 32-bit floats: scale them"):
        fit((X * 1e-42).astype(np.float32), np.arange(900), make_recipe(bits=8, epochs=1))


@pytest.mark.parametrize("chosen", [{}, {"head": "mlp", "hidden": 40}, {"space": "raw"}, {"locality": 0.0}])
def test_the_model_takes_features_as_they_are(chosen):
    recipe = make_recipe(bits=16, epochs=2, batch_size=64, **chosen)
    tensors, _ = fit(X, np.arange(900), recipe)
    layer = tensors["hidden.weight"] if recipe.head == "mlp" else tensors["output.weight"]
    assert layer.shape[1] == 48
    balance = (Model(tensors, {}).outputs(X) > 0).mean(0)
    assert 0.2 < balance.min() <= balance.max() < 0.8  # the batch norm's statistics are of the same space


@pytest.mark.parametrize("factor", [2.0**-10, 2.0**10])
def test_the_scale_of_the_features_does_not_matter(factor):
    recipe = make_recipe(bits=16, epochs=3, batch_size=64, locality=1.0)
    codes = [Model(fit(x, np.arange(900), recipe)[0], {}).outputs(X * f) > 0 for x, f in ((X, 1), (X * factor, factor))]
    assert (codes[0] == codes[1]).mean() > 0.999


def test_a_linear_head_starts_as_itq():
    space = principal_space(X, 32, 0.0, CPU)
    mapped = space(torch.from_numpy(X))
    head = start_head(make_recipe(bits=32), 48, mapped)
    expected = Model(ITQ().fit(mapped.numpy(), 32, 0), {}).outputs(mapped.numpy()) > 0
    with torch.no_grad():
        outputs = head.project(mapped)
    assert ((outputs.numpy() > 0) == expected).mean() > 0.9999
    assert outputs.square().mean().item() == pytest.approx(1, abs=1e-3)


def test_bits_beyond_dimensions_or_rows_start_at_random():
    for rows in (X, X[:30]):
        codes = np.unpackbits(sdc.Hasher(bits=128, method="sdc", epochs=2).fit(rows).encode(X), axis=1)
        assert len(np.unique(codes.T, axis=0)) == 128


@pytest.mark.parametrize(
    ("bits", "dimension", "locality", "lr"),
    [
        (64, 1280, 1.0, 0.04),
        (128, 1280, 1.0, 0.04),
        (64, 384, 0.0, 1e-5),
        (256, 1280, 0.0, 1e-5),
        (16, 120, 0.5, 4e-7**0.5),
    ],
)
def test_the_rule_by_bits_and_dimensions(bits, dimension, locality, lr):
    recipe = make_recipe(bits=bits).resolved(dimension)
    assert recipe.locality == pytest.approx(locality)
    assert recipe.lr == pytest.approx(lr)


def test_a_chosen_space_stands_and_raw_ones_have_no_locality():
    assert make_recipe(locality=0.25, lr=0.5).resolved(1280).lr == 0.5
    assert make_recipe(locality=0.25).resolved(1280).locality == 0.25
    assert make_recipe("paper-code").resolved(1280).locality == 0.0


def test_locality_ranks_pairs_by_neighbourhoods():
    """Rows of one cluster come nearer to each other, as the teacher sees them, than the features themselves say."""
    from sdc.train.methods.sdc import SDC

    labels = RNG.integers(12, size=900)
    x = (CENTRES[labels] + 1.5 * RNG.standard_normal((900, 48))).astype(np.float32)
    gaps = []
    for locality in (0.0, 1.0):
        recipe = make_recipe(bits=16, locality=locality)
        mapped = principal_space(x, 16, locality, CPU)(torch.from_numpy(x))
        unit = SDC(recipe.resolved(48), 64, mapped).teacher(mapped)
        np.testing.assert_allclose(unit.norm(dim=1), 1, atol=1e-5)
        ranks = (unit @ unit.T).argsort(1).argsort(1).numpy() / 899
        same = labels[:, None] == labels
        gaps.append(ranks[same].mean() - ranks[~same].mean())
    assert gaps[1] > gaps[0] + 0.03
