"""TBH: its graph by hand, its bits' distribution, the two sides of its game, and runs that repeat themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdc.train.loop import fit
from sdc.train.loop.checkpoint import Checkpoint
from sdc.train.loss_alarms import training_alarms
from sdc.train.methods.tbh import TBH, code_graph, game, smoothing, stochastic_bits
from sdc.train.presets import make_recipe

RNG = np.random.default_rng(0)
LABELS = RNG.integers(5, size=400)
X = (2 * RNG.standard_normal((5, 24))[LABELS] + RNG.standard_normal((400, 24))).astype(np.float32)
ROWS = np.arange(len(X))
SHORT = {"method": "tbh", "bits": 16, "hidden": 64, "batch_size": 80, "lr": 1e-3}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_bits(b, k, seed=0):
    return torch.randint(2, (b, k), generator=generator(seed)).double()


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_graph_by_hand():
    """0000, 0011 and 1111 are half of the bits apart, one from the next, and all of them, from end to end."""
    bits = torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    half = 0.5**1.4
    torch.testing.assert_close(code_graph(bits), torch.tensor([[1, half, 0], [half, 1, half], [0, half, 1]]))


@settings(max_examples=30, deadline=None)
@given(b=st.integers(1, 12), k=st.integers(1, 20), seed=st.integers(0, 99))
def test_the_graph_is_symmetric_with_ones_on_the_diagonal(b, k, seed):
    bits = some_bits(b, k, seed)
    graph = code_graph(bits)
    torch.testing.assert_close(graph, graph.T, rtol=1e-14, atol=0)  # a power may be rounded in two ways
    assert (graph.diagonal() == 1).all()
    expected = (1 - torch.cdist(bits, bits, p=1) / k) ** 1.4
    torch.testing.assert_close(graph, expected)


def test_the_graphs_gradient_is_that_of_the_others_codes():
    """Of A_ij, i ≠ j, by a bit of i: −1.4 (1 − d)^0.4 / K where j has a 0, + where it has a 1; of A_ii none."""
    bits = some_bits(5, 12).requires_grad_()
    (own,) = torch.autograd.grad(code_graph(bits).diagonal().sum(), bits)
    assert not own.any()
    (gradient,) = torch.autograd.grad(code_graph(bits)[0].sum(), bits)
    bits = bits.detach()
    expected = torch.zeros(5, 12, dtype=torch.float64)
    for j in range(1, 5):
        slope = 1.4 / 12 * (1 - (bits[0] - bits[j]).abs().mean()) ** 0.4
        expected[0] += slope * (2 * bits[j] - 1)
        expected[j] += slope * (2 * bits[0] - 1)
    torch.testing.assert_close(gradient, expected)


def test_smoothing_is_normalised_by_the_degrees():
    torch.testing.assert_close(smoothing(torch.eye(3)), torch.eye(3))
    found = smoothing(torch.tensor([[1.0, 0.5], [0.5, 1]]))
    torch.testing.assert_close(found, torch.tensor([[2.0, 1], [1, 2]]) / 3)
    graph = code_graph(some_bits(9, 16))
    root = graph.sum(1).sqrt()
    torch.testing.assert_close(smoothing(graph) @ root, root)  # the eigenvector of a normalised adjacency
    assert torch.linalg.eigvalsh(smoothing(graph)).max().item() == pytest.approx(1)


def test_bits_are_drawn_with_the_probability_of_their_outputs():
    outputs = torch.tensor([-30.0, -2, -0.5, 0, 1, 3, 30]).expand(40_000, 7)
    bits = stochastic_bits(outputs, generator())
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert set(stochastic_bits(torch.linspace(-5, 5, 1000), generator()).tolist()) == {0.0, 1.0}  # exactly
    np.testing.assert_allclose(bits.mean(0), torch.sigmoid(outputs[0]), atol=4 * 0.5 / math.sqrt(len(bits)))
    assert np.abs(np.corrcoef(bits[:, 1:6].T) - np.eye(5)).max() < 0.03
    assert torch.equal(bits, stochastic_bits(outputs, generator()))
    assert not torch.equal(bits, stochastic_bits(outputs, generator(1)))


def test_the_bits_gradient_is_that_of_the_probability():
    outputs = torch.linspace(-3, 3, 9, requires_grad=True)
    weights = torch.arange(9.0)
    (gradient,) = torch.autograd.grad(stochastic_bits(outputs, generator()) @ weights, outputs)
    p = torch.sigmoid(outputs.detach())
    torch.testing.assert_close(gradient, weights * p * (1 - p))


def two_sides():
    """Two discriminators, what the encoder made, and noise."""
    torch.manual_seed(0)
    modules = nn.ModuleList([nn.Linear(6, 1), nn.Linear(9, 1)])
    made = [torch.randn(5, 6, requires_grad=True), torch.randn(5, 9, requires_grad=True)]
    return modules, made, [torch.randn(5, 6), torch.randn(5, 9)]


def test_each_side_of_the_game_has_a_gradient_by_its_own_alone():
    modules, made, noise = two_sides()
    theirs = list(modules.parameters())
    fooling, discrimination = game(modules, made, noise)
    for loss, own, other in ((fooling, made, theirs), (discrimination, theirs, made)):
        assert all(x.any() for x in torch.autograd.grad(loss, own, retain_graph=True))
        assert torch.autograd.grad(loss, other, retain_graph=True, allow_unused=True) == (None,) * len(other)


def test_the_game_is_binary_cross_entropy():
    modules, made, noise = two_sides()
    found, real = ([m(x).sigmoid() for m, x in zip(modules, xs, strict=True)] for xs in (made, noise))
    fooling, discrimination = game(modules, made, noise)
    expected = sum(F.binary_cross_entropy(p, torch.ones_like(p)) for p in found)
    torch.testing.assert_close(fooling, expected)
    expected = sum(F.binary_cross_entropy(p, torch.zeros_like(p)) for p in found)
    expected += sum(F.binary_cross_entropy(p, torch.ones_like(p)) for p in real)
    torch.testing.assert_close(discrimination, expected)


def test_its_total_and_which_parameters_each_term_moves():
    features = torch.from_numpy(X[:40])
    method = TBH(make_recipe(method="tbh", bits=16), 40, features)
    method.generator.manual_seed(3)
    outputs = torch.randn(40, 16, generator=generator(), requires_grad=True)
    terms = dict(zip(method.terms, method.loss(features, outputs), strict=True))
    game_terms = terms["fooling"] + terms["discrimination"]
    assert terms["total"].item() == pytest.approx((terms["reconstruction"] + game_terms / 40).item(), rel=1e-6)
    names = [name for name, _ in method.named_parameters()]
    parts = {"encoder", "convolution", "decoder", "discriminators"}
    expected = {
        "reconstruction": parts - {"discriminators"} | {"outputs"},
        "fooling": {"encoder", "convolution", "outputs"},
        "discrimination": {"discriminators"},
    }
    for term, moved in expected.items():
        inputs = [*method.parameters(), outputs]
        gradients = torch.autograd.grad(terms[term], inputs, retain_graph=True, allow_unused=True)
        named = zip([*names, "outputs"], gradients, strict=True)
        assert {name.split(".")[0] for name, gradient in named if gradient is not None} == moved


def test_the_reconstruction_falls_below_the_variance():
    """To rebuild the mean alone leaves half the variance: less of it is left only by what the bottlenecks tell."""
    _, summary = fit(X, ROWS, make_recipe(**SHORT, epochs=60))
    curve = [epoch["reconstruction"] for epoch in summary["curve"]]
    assert curve[-1] < 0.8 * X.var(0).sum() / 2 < curve[0]
    assert curve[-1] < 0.7 * curve[0]
    assert training_alarms(summary["curve"]) == []


def test_equal_seeds_give_equal_runs_resumed_bit_for_bit(killed_before, tmp_path):
    recipe = make_recipe(**SHORT, epochs=4)
    undisturbed, summary = fit(X, ROWS, recipe)
    assert equal(undisturbed, fit(X, ROWS, recipe)[0])
    assert not equal(undisturbed, fit(X, ROWS, make_recipe(**SHORT, epochs=4, seed=1))[0])
    checkpoint = Checkpoint(tmp_path / "m", {})
    with killed_before(13):
        fit(X, ROWS, recipe, checkpoint=checkpoint)
    resumed, again = fit(X, ROWS, recipe, checkpoint=checkpoint, resume=True)
    assert equal(undisturbed, resumed)
    assert again == summary
    assert set(undisturbed) == {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}  # the head alone
