"""NSH: the relaxed sorting, the loss against a plain one, and its own parameters in a resumed run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdc
from sdc.errors import UsageError
from sdc.train.loop import fit
from sdc.train.loop.checkpoint import Checkpoint
from sdc.train.methods.nsh import NSH, soft_sort, sorted_nce
from sdc.train.presets import make_recipe

SCORES = st.lists(st.integers(-50, 50), min_size=1, max_size=9, unique=True)


@settings(deadline=None)
@given(SCORES, st.floats(1e-3, 1e3))
def test_shares_sum_to_one_and_are_largest_where_they_belong(scores, temperature):
    order = soft_sort(torch.tensor([scores], dtype=torch.float64), temperature)[0]
    np.testing.assert_allclose(order.sum(1), 1)
    assert (order >= 0).all()
    belongs = np.argsort(-np.array(scores))
    np.testing.assert_allclose(order.max(1).values, order.numpy()[np.arange(len(scores)), belongs])


@settings(deadline=None)
@given(SCORES)
def test_it_nears_the_permutation_that_sorts(scores):
    permutation = np.eye(len(scores))[np.argsort(-np.array(scores))]
    rows = torch.tensor([scores, scores[::-1]], dtype=torch.float64)
    distances = [
        np.abs(soft_sort(rows, temperature)[0].numpy() - permutation).max() for temperature in (10, 1, 0.1, 0.02)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-12
    np.testing.assert_allclose(soft_sort(rows, 0.02)[1] @ rows[1], sorted(scores, reverse=True), atol=1e-12)


def test_sorting_has_the_gradient_of_differences():
    scores = torch.tensor([[0.3, -1, 2, 0.7], [4, 1, 2, 3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: soft_sort(x, 0.8), scores)


def test_sorted_nce_is_the_plain_one():
    similarities = torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = []
    for row in similarities.tolist():
        positives, negatives = row[:2], [math.exp(s / 0.3) for s in row[2:]]
        losses += [-math.log(math.exp(s / 0.3) / (math.exp(s / 0.3) + sum(negatives))) for s in positives]
    assert sorted_nce(similarities, 2, 0.3).item() == pytest.approx(np.mean(losses), rel=1e-12)


def plain_loss(method, features, outputs):
    """Step by step as in the paper, gathering (B, B, L) latent vectors; float64."""
    b, k = np.tanh(outputs), outputs.shape[-1]
    weight, bias = (p.detach().double().numpy() for p in (method.latent.weight, method.latent.bias))
    z = features @ weight.T + bias
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    total = 0.0
    for i in range(len(b)):
        similarity = np.array([(b[i, 0] @ b[j, 1] / k + 1) / 2 for j in range(len(b))])
        gathered = []
        for ranked in sorted(similarity, reverse=True):
            shares = np.exp(-np.abs(ranked - similarity) * k)
            gathered.append((shares / shares.sum()) @ z[:, 0])
        weights = [math.exp(vector @ z[i, 1] / 0.3) for vector in gathered]
        total += np.mean([-math.log(w / (w + sum(weights[2:]))) for w in weights[:2]])
    return total / len(b) + np.mean((b - np.sign(b)) ** 2)


def batch(b=10, d=6, k=8):
    generator = torch.Generator().manual_seed(0)
    features, outputs = (torch.randn(b, 2, n, generator=generator) for n in (d, k))
    recipe = make_recipe(method="nsh", bits=k)
    torch.manual_seed(0)
    return NSH(recipe, b, features[:, 0]), features, outputs.requires_grad_()


def test_the_loss_is_the_plain_one():
    method, features, outputs = batch()
    found = method.loss(features, outputs)
    assert method.terms[0] == "total"
    expected = plain_loss(method, features.double().numpy(), outputs.detach().double().numpy())
    assert found.total.item() == pytest.approx(expected, rel=1e-5)
    assert found.total.item() == pytest.approx((found.contrastive + found.quantization).item())


def test_gradients_pass_the_sorting_and_the_gathering():
    method, features, outputs = batch()
    contrastive = method.loss(features, outputs).contrastive
    gradients = torch.autograd.grad(contrastive, [outputs, method.latent.weight])
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


def test_a_batch_without_negatives_is_refused():
    x = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    with pytest.raises(UsageError, match="a batch of 2 rows: nsh takes the nearest 2 for alike and needs"):
        sdc.Hasher(bits=8, method="nsh", batch_size=2, epochs=1).fit(x)
    sdc.Hasher(bits=8, method="nsh", batch_size=4, epochs=1).fit(x)


X = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
ROWS = np.arange(len(X))
RECIPE = make_recipe(method="nsh", bits=16, epochs=3, lr=1e-2, batch_size=32)


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("steps", [1, 6, 9])  # an epoch has six
def test_a_resumed_run_with_stand_in_views_is_bit_for_bit_equal(stopped_after, tmp_path, steps):
    undisturbed, summary = fit(X, ROWS, RECIPE)
    checkpoint = Checkpoint(tmp_path / "model.safetensors", {"bits": 16})
    with stopped_after(steps):
        fit(X, ROWS, RECIPE, checkpoint=checkpoint)
    resumed, again = fit(X, ROWS, RECIPE, checkpoint=checkpoint, resume=True)
    assert equal(resumed, undisturbed)
    assert again == summary
    assert sorted(undisturbed) == ["output.bias", "output.weight"], "the latent layer is no part of the model"
