"""The eager calibration loss against the float64 plain-loop reference: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from sdc.kernels import Loss, calibration_loss, quantile_table, reference, sample_length

PAIRS = ("rows", "halves", "all")


def batch(b, d, k, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(b, d, generator=generator, dtype=torch.float64)).to(dtype)
    z = torch.randn(b, k, generator=generator, dtype=torch.float64).to(dtype)
    return x, z.requires_grad_()


def targets(b, pairs, dtype=torch.float64):
    return torch.from_numpy(quantile_table(beta(5, 5).ppf, sample_length(b, pairs))).to(dtype)


def expect_equal(x, z, pairs, atol, upstream=1.0, **options):
    q = targets(len(x), pairs, z.dtype)
    loss = calibration_loss(x, z, q, pairs=pairs, implementation="eager", **options)
    (upstream * loss.total).backward()
    ref = reference.calibration_loss(x.double().numpy(), z.detach().double().numpy(), q.double().numpy(),
                                     pairs=pairs, **options)  # fmt: skip
    weight = options.get("quantization_weight", 1.0)
    assert loss.calibration.item() == pytest.approx(ref.calibration, abs=atol)
    assert loss.quantization.item() == pytest.approx(ref.quantization, abs=atol)
    assert loss.total.item() == pytest.approx(ref.calibration + weight * ref.quantization, abs=atol)
    np.testing.assert_allclose(z.grad.double().numpy(), upstream * ref.gradient, atol=atol)


@pytest.mark.parametrize("pairs", PAIRS)
@pytest.mark.parametrize("loss", ["l1", "l2", "one-sided"])
@pytest.mark.parametrize("quantization", ["cosine", "l1", "l2", "cubic"])
def test_every_form_equals_the_reference(pairs, loss, quantization):
    x, z = batch(10, 7, 5)
    expect_equal(x, z, pairs, 1e-12, loss=loss, quantization=quantization, quantization_weight=0.3)


@pytest.mark.parametrize("pairs", PAIRS)
def test_float32_equals_the_reference_closely(pairs):
    x, z = batch(16, 12, 8, torch.float32)
    expect_equal(x, z, pairs, 1e-6)


@pytest.mark.parametrize("pairs", PAIRS)
def test_an_upstream_gradient_scales_it(pairs):
    x, z = batch(8, 6, 4)
    expect_equal(x, z, pairs, 1e-12, upstream=-2.5)


@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 9).map(lambda n: 2 * n), d=st.integers(1, 9), k=st.integers(1, 9), pairs=st.sampled_from(PAIRS))
def test_any_shape(b, d, k, pairs):
    x, z = batch(b, d, k, seed=b + 10 * d + 100 * k)
    expect_equal(x, z, pairs, 1e-11)


def exact_features(levels):
    """Unit rows whose similarities are exact in floating point: multiples of 1/4."""
    signs = np.sign(np.random.default_rng(0).standard_normal((levels, 4)))
    return torch.from_numpy(signs / 2)


@pytest.mark.parametrize("pairs", PAIRS)
def test_ties_keep_the_order_of_the_pairs(pairs):
    x = exact_features(12)
    z = batch(12, 4, 6)[1]
    expect_equal(x, z, pairs, 1e-12)


@pytest.mark.parametrize("pairs", PAIRS)
def test_zero_and_constant_rows_give_finite_gradients(pairs):
    x, z = batch(6, 5, 4)
    with torch.no_grad():
        z[0] = 0
        z[3] = 1
    x[2] = x[1]
    loss = calibration_loss(x, z, targets(6, pairs), pairs=pairs)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert torch.isfinite(z.grad).all()


def test_half_precision_features_rank_like_their_values():
    x, z = batch(12, 8, 4, torch.float32)
    half = x.half()
    q = targets(12, "rows", torch.float32)
    assert calibration_loss(half, z, q).total.item() == calibration_loss(half.float(), z, q).total.item()


def test_gradcheck():
    x, z = batch(6, 5, 4)
    for pairs in PAIRS:
        q = targets(6, pairs)
        assert torch.autograd.gradcheck(lambda v, p=pairs, t=q: calibration_loss(x, v, t, pairs=p).total, (z,))


def test_only_ranks_of_the_features_count():
    x, z = batch(10, 6, 4)
    q = targets(10, "halves")
    # a monotone change of the similarities: rows i and i + 5 moved to cos θ = t³
    t = (x[:5] * x[5:]).sum(1) ** 3
    other = torch.zeros(10, 2, dtype=torch.float64)
    other[:5, 0] = 1
    other[5:, 0], other[5:, 1] = t, (1 - t**2).sqrt()
    assert calibration_loss(x, z, q, pairs="halves") == calibration_loss(other, z, q, pairs="halves")


def test_bad_input_is_refused():
    x, z = batch(6, 5, 4)
    q = targets(6, "rows")
    with pytest.raises(ValueError, match="needs 5 quantiles, got"):
        calibration_loss(x, z, q[:3])
    with pytest.raises(ValueError, match="even batch"):
        calibration_loss(x[:5], z[:5], q, pairs="halves")
    with pytest.raises(ValueError, match="at least 2 rows"):
        calibration_loss(x[:1], z[:1], q)
    with pytest.raises(ValueError, match="of one batch"):
        calibration_loss(x[:4], z, q)
    with pytest.raises(ValueError, match="pairs='columns' is unknown"):
        calibration_loss(x, z, q, pairs="columns")
    for name in ("loss", "quantization", "implementation"):
        with pytest.raises(ValueError, match=f"{name}='l7' is unknown"):
            calibration_loss(x, z, q, **{name: "l7"})
    with pytest.raises(ValueError, match="floating-point"):
        calibration_loss(x.long(), z, q)


def test_loss_is_a_named_tuple_of_scalars():
    x, z = batch(4, 3, 2)
    loss = calibration_loss(x, z, targets(4, "rows"))
    assert isinstance(loss, Loss)
    assert Loss._fields == ("total", "calibration", "quantization")
    assert all(term.shape == () for term in loss)


def test_quantile_table_of_the_uniform_distribution():
    np.testing.assert_allclose(quantile_table(lambda u: u, 4), [-0.75, -0.25, 0.25, 0.75])


def test_quantile_table_refuses_what_is_no_inverse_cdf():
    with pytest.raises(ValueError, match="into"):
        quantile_table(lambda u: 2 * u, 4)
    with pytest.raises(ValueError, match="fall"):
        quantile_table(lambda u: 1 - u, 4)
    with pytest.raises(ValueError, match="n = 0"):
        quantile_table(lambda u: u, 0)
