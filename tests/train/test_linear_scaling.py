"""The linear-scaling baseline against a plain float64 computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from sdc.kernels import calibration_loss
from sdc.kernels.functional import LOSSES, PAIRS, QUANTIZATIONS
from sdc.train.linear_scaling import linear_scaling_loss


def plain(x, z, pairs, loss):
    """The scaled term, pair by pair: x (B, d) features, z (B, K) outputs."""
    b = len(x)
    chosen = {
        "rows": [(i, j) for i in range(b) for j in range(b) if i != j],
        "all": list(itertools.combinations(range(b), 2)),
        "halves": [(i, i + b // 2) for i in range(b // 2)],
    }[pairs]

    def cosines(a):
        return np.array([a[i] @ a[j] / np.linalg.norm(a[i]) / np.linalg.norm(a[j]) for i, j in chosen])

    t = cosines(x)
    difference = cosines(z) - (2 * (t - t.min()) / (t.max() - t.min()) - 1)
    if loss == "l1":
        return np.abs(difference).mean()
    return (difference**2).mean() if loss == "l2" else np.maximum(difference, 0).mean()


def batch(b=18, d=7, k=9, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(b, n, generator=generator, dtype=torch.float64) for n in (d, k))
    return normalize(x + 1).to(dtype), z.to(dtype).requires_grad_()


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 2e-7), (torch.float32, 2e-6)])
def test_the_term_is_the_plain_one(pairs, loss, dtype, atol):
    x, z = batch(dtype=dtype)
    found = linear_scaling_loss(x, z, pairs=pairs, loss=loss)
    assert found.calibration.item() == pytest.approx(plain(x.numpy(), z.detach().numpy(), pairs, loss), abs=atol)
    assert found.total.dtype == dtype


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_quantization_term_is_that_of_calibration(quantization):
    x, z = batch()
    table = torch.linspace(-1, 1, 17, dtype=torch.float64)
    found = linear_scaling_loss(x, z, quantization=quantization, quantization_weight=0.3)
    assert torch.equal(found.quantization, calibration_loss(x, z, table, quantization=quantization).quantization)
    assert found.total.item() == pytest.approx(found.calibration.item() + 0.3 * found.quantization.item())


@pytest.mark.parametrize("pairs", PAIRS)
def test_gradients_are_those_of_differences(pairs):
    x, z = batch(b=8)
    assert torch.autograd.gradcheck(lambda outputs: linear_scaling_loss(x, outputs, pairs=pairs).total, z)


def test_similarities_squeezed_by_a_constant_are_stretched():
    codes = torch.tensor([[1, 0], [1, 0], [-1, 0], [0.6, 0.8]], dtype=torch.float64)
    squeezed = torch.cat([codes * 0.1**0.5, torch.full((4, 1), 0.9**0.5, dtype=torch.float64)], dim=1)
    similarities = squeezed @ squeezed.T
    assert (similarities.min().item(), similarities.max().item()) == pytest.approx((0.8, 1))
    for pairs in ("rows", "all"):
        assert linear_scaling_loss(squeezed, codes, pairs=pairs).calibration.item() == pytest.approx(0, abs=1e-12)


def test_equal_similarities_have_the_target_0():
    x = torch.eye(4)
    z = torch.eye(4).requires_grad_()
    found = linear_scaling_loss(x, z)
    assert found.calibration.item() == 0
    linear_scaling_loss(x, torch.randn(4, 4, requires_grad=True)).total.backward()


def test_the_features_get_no_gradient():
    x, z = batch()
    x.requires_grad_()
    linear_scaling_loss(x, z).total.backward()
    assert x.grad is None
    assert z.grad is not None


@pytest.mark.parametrize("wrong", [{"pairs": "half"}, {"loss": "l3"}, {"quantization": "sign"}])
def test_unknown_names_are_refused(wrong):
    x, z = batch()
    with pytest.raises(ValueError, match="is unknown"):
        linear_scaling_loss(x, z, **wrong)


def test_an_odd_batch_has_no_halves():
    x, z = batch(b=9)
    with pytest.raises(ValueError, match="even batch"):
        linear_scaling_loss(x, z, pairs="halves")
