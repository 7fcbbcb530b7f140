"""The neighbour loss and its teacher's temperature against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdc.train.losses import neighbor_loss, teacher_temperature


def batch(rows=12, anchors=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    unit = F.normalize(torch.randn(rows, 5, generator=generator, dtype=torch.float64), dim=1)
    logits = torch.randn(anchors, rows, generator=generator, dtype=torch.float64) * 3
    return unit.to(dtype), logits.to(dtype)


def softmax(values):
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return [weight / sum(weights) for weight in weights]


def plain(unit, logits, temperature):
    """The loss and its gradient by the logits."""
    unit, logits = unit.tolist(), logits.tolist()
    loss, gradient = 0.0, np.zeros((len(logits), len(unit)))
    for anchor, values in enumerate(logits):
        others = [row for row in range(len(unit)) if row != anchor]
        cosines = [sum(a * b for a, b in zip(unit[anchor], unit[row], strict=True)) for row in others]
        target = softmax([cosine / temperature for cosine in cosines])
        model = softmax([values[row] for row in others])
        for row, wanted, actual in zip(others, target, model, strict=True):
            loss -= wanted * math.log(actual) / len(logits)
            gradient[anchor, row] = (actual - wanted) / len(logits)
    return loss, gradient


@pytest.mark.parametrize(("rows", "anchors"), [(12, 4), (33, 33), (65, 16), (2, 1)])
@pytest.mark.parametrize("temperature", [0.01, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradient_are_those_of_plain_loops(rows, anchors, temperature, dtype, tolerance):
    unit, logits = batch(rows, anchors, dtype=dtype)
    logits.requires_grad_()
    loss = neighbor_loss(unit, logits, temperature)
    (loss * 3).backward()
    expected, gradient = plain(unit, logits.detach(), temperature)
    assert float(loss.detach()) == pytest.approx(expected, rel=10 * tolerance, abs=tolerance)
    np.testing.assert_allclose(logits.grad, 3 * gradient, atol=10 * tolerance)


def test_gradcheck():
    unit, logits = batch()
    assert torch.autograd.gradcheck(lambda x: neighbor_loss(unit, x, 0.1), logits.requires_grad_())


def test_an_anchors_own_logit_counts_for_nothing():
    unit, logits = batch()
    own = logits.clone()
    own[torch.arange(4), torch.arange(4)] = 1e4
    assert neighbor_loss(unit, own, 0.1) == neighbor_loss(unit, logits, 0.1)


def test_it_is_least_where_the_logits_are_the_teachers():
    unit, logits = batch()
    teacher = unit[:4] @ unit.T / 0.1
    best = float(neighbor_loss(unit, teacher, 0.1))
    assert best < float(neighbor_loss(unit, teacher * 0.7, 0.1))
    assert best < float(neighbor_loss(unit, teacher + 0.1 * logits, 0.1))


def entropy(unit, temperature, anchors):
    """The mean over the anchors, of plain loops."""
    cosines, total = (unit @ unit.T).tolist(), 0.0
    for anchor in range(anchors):
        weights = softmax([value / temperature for row, value in enumerate(cosines[anchor]) if row != anchor])
        total -= sum(weight * math.log(weight) for weight in weights if weight > 0) / anchors
    return total


@pytest.mark.parametrize("spread", [0.05, 1.0])
@pytest.mark.parametrize("wanted", [0.5, 1.2, 2.5])
def test_the_temperature_gives_the_entropy_asked_for(spread, wanted):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 8, generator=generator, dtype=torch.float64) * spread
    rows[:, 0] += 1
    unit = F.normalize(rows, dim=1)
    temperature = teacher_temperature(unit, wanted)
    assert entropy(unit, temperature, 50) == pytest.approx(wanted, abs=0.01)


def test_the_temperature_is_finite_where_rows_are_alike():
    for unit in (torch.ones(50, 1), torch.ones(2, 1)):
        assert 0 < teacher_temperature(unit) <= 1
