"""CIBHash's terms against torch.distributions and NT-Xent on signs."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from sdc.train.losses import nt_xent
from sdc.train.methods.cibhash import CIBHash, symmetric_divergence
from sdc.train.presets import make_recipe

RECIPE = make_recipe(method="cibhash", bits=8)


def logits(b=6, k=8, seed=0, scale=2.0):
    return scale * torch.randn(b, 2, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kl(first, second):
    return kl_divergence(Bernoulli(logits=first), Bernoulli(logits=second)).sum(1).mean()


def loss(outputs):
    features = torch.zeros(len(outputs), 2, 3)
    method = CIBHash(RECIPE, len(outputs), features[:, 0])
    return dict(zip(method.terms, method.loss(features, outputs), strict=True))


@pytest.mark.parametrize("scale", [0.01, 2, 8])
def test_the_divergence_is_the_mean_of_both_directions(scale):
    p, q = logits(scale=scale).unbind(1)
    assert symmetric_divergence(p, q).item() == pytest.approx((kl(p, q) + kl(q, p)).item() / 2, rel=1e-6)
    assert symmetric_divergence(p, q).item() == symmetric_divergence(q, p).item() > 0
    assert symmetric_divergence(p, p).item() == 0


def test_each_direction_moves_its_first_argument_alone():
    p, q = (x.clone().requires_grad_() for x in logits().unbind(1))
    found = torch.autograd.grad(symmetric_divergence(p, q), [p, q])
    expected = torch.autograd.grad((kl(p, q.detach()) + kl(q, p.detach())) / 2, [p, q])
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)


def test_the_divergence_is_finite_where_a_bit_is_certain():
    p = torch.full((2, 3), 200.0, requires_grad=True)
    found = symmetric_divergence(p, -p.detach())
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(p.grad).all()


def test_signs_are_contrasted_with_gradients_of_probabilities():
    outputs = logits().requires_grad_()
    found = loss(outputs)
    assert found["contrastive"].item() == nt_xent(outputs.detach().sign()).item()
    assert loss(outputs * 1.7)["contrastive"].item() == found["contrastive"].item()
    signs = outputs.detach().sign().requires_grad_()
    (at_signs,) = torch.autograd.grad(nt_xent(signs), signs)
    p = torch.sigmoid(outputs.detach())
    (gradient,) = torch.autograd.grad(found["contrastive"], outputs)
    torch.testing.assert_close(gradient, at_signs * p * (1 - p))


def test_the_total_is_the_sum_of_its_terms():
    found = loss(logits())
    assert found["divergence"].item() > 1
    assert found["total"].item() == pytest.approx(found["contrastive"].item() + 0.001 * found["divergence"].item())


def test_it_has_the_published_hidden_layer_and_no_batch_norm():
    assert (RECIPE.head, RECIPE.hidden, RECIPE.norm) == ("mlp", 1024, False)
    assert (RECIPE.batch_size, RECIPE.epochs, RECIPE.lr, RECIPE.weight_decay) == (64, 100, 1e-3, 0)
