"""NT-Xent against a plain loop, and SDC with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdc.train.losses import nt_xent
from sdc.train.methods import load_method
from sdc.train.presets import make_recipe


def plain(outputs, temperature):
    """NT-Xent of outputs (B, 2, K), view by view."""
    views = [(row, view, outputs[row, view]) for row in range(len(outputs)) for view in (0, 1)]
    losses = []
    for row, view, anchor in views:
        weights = {}
        for other_row, other_view, other in views:
            if (other_row, other_view) != (row, view):
                cosine = anchor @ other / np.linalg.norm(anchor) / np.linalg.norm(other)
                weights[other_row, other_view] = math.exp(cosine / temperature)
        losses.append(-math.log(weights[row, 1 - view] / sum(weights.values())))
    return np.mean(losses)


def two_views(b=9, k=5, seed=0, dtype=torch.float64):
    return torch.randn(b, 2, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("b", "k"), [(1, 4), (2, 3), (9, 5), (33, 65)])
@pytest.mark.parametrize("temperature", [0.3, 0.05])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_nt_xent_is_the_plain_one(b, k, temperature, dtype, rtol):
    outputs = two_views(b, k)
    found = nt_xent(outputs.to(dtype), temperature)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(plain(outputs.numpy(), temperature), rel=rtol, abs=rtol)


def test_its_gradient_is_that_of_differences():
    assert torch.autograd.gradcheck(nt_xent, two_views(5).requires_grad_())


def test_orders_of_rows_and_views_and_lengths_do_not_matter():
    outputs = two_views()
    expected = nt_xent(outputs).item()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert nt_xent(outputs[order]).item() == pytest.approx(expected, rel=1e-12)
    assert nt_xent(outputs.flip(1)).item() == pytest.approx(expected, rel=1e-12)
    lengths = torch.linspace(0.1, 9, 18, dtype=torch.float64).view(9, 2, 1)
    assert nt_xent(outputs * lengths).item() == pytest.approx(expected, rel=1e-12)
    mixed = torch.stack([outputs[:, 0], outputs[order, 1]], dim=1)
    assert nt_xent(mixed).item() != pytest.approx(expected, rel=1e-3)


def test_its_value_where_it_is_known():
    assert nt_xent(torch.ones(8, 2, 4)).item() == pytest.approx(math.log(15))
    apart = torch.eye(8).unsqueeze(1).expand(-1, 2, -1)  # views alike, rows at right angles
    assert nt_xent(apart, 0.3).item() == pytest.approx(math.log(1 + 14 * math.exp(-1 / 0.3)))


RECIPE = make_recipe(method="sdc-contrastive", bits=16)


def batch(b=12, d=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, 2, d, generator=generator) + 1, torch.randn(b, 2, 16, generator=generator)


def losses(name, recipe, features, outputs, **extras):
    method = load_method(name)(recipe, len(features), features.flatten(0, -2))
    return dict(zip(method.terms, method.loss(features, outputs, **extras), strict=True))


def test_without_its_weight_it_is_sdc_on_the_first_view():
    for pairs in ("halves", "rows"):
        features, outputs = batch()
        recipe = replace(RECIPE, pairs=pairs, contrastive_weight=0.0)
        found = losses("sdc-contrastive", recipe, features, outputs)
        expected = losses("sdc", recipe, features[:, 0], outputs[:, 0])
        assert {name: found[name].item() for name in expected} == {name: x.item() for name, x in expected.items()}


def test_labels_rank_the_pairs_of_the_first_view_as_in_sdc():
    features, outputs = batch()
    labels = torch.arange(12) % 3
    recipe = replace(RECIPE, supervised=True, pairs="rows", contrastive_weight=0.0)
    found = losses("sdc-contrastive", recipe, features, outputs, labels=labels)
    expected = losses("sdc", recipe, features[:, 0], outputs[:, 0], labels=labels)
    assert found["total"].item() == expected["total"].item()
    assert found["total"].item() != losses("sdc-contrastive", recipe, features, outputs)["total"].item()


def test_the_total_is_the_weighted_sum_of_its_terms():
    features, outputs = batch()
    recipe = replace(RECIPE, quantization_weight=0.5, contrastive_weight=2.0)
    found = losses("sdc-contrastive", recipe, features, outputs)
    assert found["contrastive"].item() == pytest.approx(plain(outputs.numpy(), 0.3), rel=1e-5)
    total = found["calibration"] + 0.5 * found["quantization"] + 2 * found["contrastive"]
    assert found["total"].item() == pytest.approx(total.item(), rel=1e-6)


def test_the_second_view_acts_by_the_contrastive_term_alone():
    features, outputs = batch()
    outputs.requires_grad_()
    found = losses("sdc-contrastive", RECIPE, features, outputs)
    (gradient,) = torch.autograd.grad(found["total"], outputs)
    (contrastive,) = torch.autograd.grad(nt_xent(outputs), outputs)
    torch.testing.assert_close(gradient[:, 1], contrastive[:, 1])
    assert (gradient[:, 0] - contrastive[:, 0]).abs().max() > 1e-3


def test_it_is_published_with_the_settings_of_paper_code():
    assert make_recipe(method="sdc-contrastive") == replace(make_recipe("paper-code"), method="sdc-contrastive")
    assert RECIPE.contrastive_weight == 1
