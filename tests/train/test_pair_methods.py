"""GreedyHash, BiHalf and SSDH, which learn the similarities of pairs, against formulas worked by hand."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import norm

import sdc
from sdc.errors import SdcError
from sdc.train.losses import signs
from sdc.train.methods import load_method
from sdc.train.methods.bihalf import balanced_codes
from sdc.train.methods.ssdh import clear_distances
from sdc.train.presets import make_recipe

PAIR_METHODS = ("greedyhash", "bihalf", "ssdh")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(name, sample=None, **settings):
    """A method as the training loop makes it."""
    sample = draw(300, 6) + 1 if sample is None else sample
    return load_method(name)(make_recipe(method=name, **settings), 32, sample)


def clusters(rows=600, dimension=32, classes=12, seed=0):
    """Rows around centres that lie off the origin, as those of a network's last layer do: all cosines are positive."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    x = 3 + 1.5 * rng.standard_normal((classes, dimension))[labels] + rng.standard_normal((rows, dimension))
    return x.astype(np.float32), labels


def precision(codes, labels, k=20):
    """The mean share of a row's label among the k rows nearest to it."""
    bits = np.unpackbits(codes, axis=1).astype(np.float32)
    distances = np.abs(bits[:, None] - bits[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argsort(axis=1, kind="stable")[:, :k]
    return (labels[nearest] == labels[:, None]).mean()


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def plain_halves(x, b):
    """The mean squared difference of cosines of x (B, p) and codes b (B, K), and its gradient by b, pair by pair."""
    half = len(b) // 2
    loss, gradient = 0.0, np.zeros_like(b)
    for i, j in zip(range(half), range(half, 2 * half), strict=True):
        found = cosine(b[i], b[j])
        difference = found - cosine(x[i], x[j])
        loss += difference**2 / half
        for one, other in ((i, j), (j, i)):
            u, v = b[one] / np.linalg.norm(b[one]), b[other] / np.linalg.norm(b[other])
            gradient[one] = 2 * difference / half * (v - found * u) / np.linalg.norm(b[one])
    return loss, gradient


@pytest.mark.parametrize("name", PAIR_METHODS)
def test_learning_beats_the_random_start(name):
    x, labels = clusters()
    start = sdc.Hasher(bits=32, method=name, epochs=1, lr=1e-12).fit(x).encode(x)
    hasher = sdc.Hasher(bits=32, method=name, epochs=40, lr=1e-3).fit(x)
    learned = hasher.encode(x)
    assert precision(learned, labels) > precision(start, labels) + 0.1
    curve = [epoch["total"] for epoch in hasher.model.metadata["training"]["curve"]]
    assert curve[-1] < 0.7 * curve[0]


@pytest.mark.parametrize("name", PAIR_METHODS)
def test_the_head_is_the_single_layer_of_the_originals(name):
    x, _ = clusters(rows=100)
    hasher = sdc.Hasher(bits=16, method=name, epochs=1).fit(x)
    weight, bias = (hasher.model.tensors[f"output.{part}"] for part in ("weight", "bias"))
    np.testing.assert_allclose(hasher.outputs(x), x @ weight.T + bias, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(hasher.encode(x), np.packbits(hasher.outputs(x) > 0, axis=1, bitorder="little"))


def test_greedyhash_passes_the_gradient_of_signs_straight():
    outputs = torch.tensor([[0.3, -2.0], [0.0, 1e-30]], requires_grad=True)
    codes, upstream = signs(outputs), torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    assert codes.tolist() == [[1, -1], [-1, 1]]
    codes.backward(upstream)
    assert torch.equal(outputs.grad, upstream)


@pytest.mark.parametrize("rows", [10, 11])
@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_greedyhash_loss_and_gradient_by_hand(rows, weight):
    x, h = draw(rows, 6) + 1, draw(rows, 16, seed=1).requires_grad_()
    found = made("greedyhash", bits=16, quantization_weight=weight).loss(x, h)
    found.total.backward()
    x, u = x.numpy(), h.detach().numpy()
    similarity, gradient = plain_halves(x, np.where(u > 0, 1.0, -1.0))
    assert found.similarity.item() == pytest.approx(similarity, rel=1e-12)
    assert found.quantization.item() == pytest.approx(np.mean(np.abs(np.abs(u) - 1) ** 3), rel=1e-12)
    assert found.total.item() == pytest.approx(similarity + weight * found.quantization.item(), rel=1e-12)
    excess = np.abs(u) - 1
    pull = 3 * excess * np.abs(excess) * np.sign(u) / u.size
    np.testing.assert_allclose(h.grad.numpy(), gradient + weight * pull, rtol=1e-9, atol=1e-12)


def test_greedyhash_is_published_with_a_tenth_of_the_penalty():
    assert make_recipe(method="greedyhash").quantization_weight == 0.1


@given(st.integers(2, 33), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_bihalf_bits_are_half_and_half(rows, bits, seed, tied):
    outputs = draw(rows, bits, seed=seed) + 5
    outputs = outputs.round() if tied else outputs
    codes = balanced_codes(outputs)
    assert set(codes.unique().tolist()) == {-1, 1}
    assert ((codes == 1).sum(dim=0) == rows // 2).all()
    for u, b in zip(outputs.T, codes.T, strict=True):
        assert u[b > 0].min() >= u[b < 0].max()


def test_bihalf_codes_are_the_nearest_balanced_ones():
    outputs = draw(6, 20)
    codes = balanced_codes(outputs)
    for u, b in zip(outputs.numpy().T, codes.numpy().T, strict=True):
        choices = [np.where(np.isin(range(6), top), 1, -1) for top in itertools.combinations(range(6), 3)]
        np.testing.assert_array_equal(b, min(choices, key=lambda choice: np.square(u - choice).sum()))


def test_bihalf_takes_first_equals_and_the_smaller_odd_half():
    outputs = torch.tensor([[1.0, 0], [1, 5], [1, 4], [1, 3], [1, -1]])
    assert balanced_codes(outputs).T.tolist() == [[1, 1, -1, -1, -1], [-1, 1, 1, -1, -1]]


def test_bihalf_gradient_of_the_codes_passes_straight_through():
    outputs, upstream = draw(9, 5).requires_grad_(), draw(9, 5, seed=1)
    balanced_codes(outputs).backward(upstream)
    assert torch.equal(outputs.grad, upstream)


@pytest.mark.parametrize("rows", [12, 13])
def test_bihalf_loss_and_gradient_by_hand(rows):
    """The gradient at the outputs U is that at the codes B, g, and γ(U − B)/(N·K) more, as published with γ = 6."""
    x, h = draw(rows, 6) + 1, (draw(rows, 16, seed=1) + 2).requires_grad_()
    found = made("bihalf", bits=16).loss(x, h)
    found.total.backward()
    u = h.detach().numpy()
    codes = np.where(u.argsort(axis=0).argsort(axis=0) >= rows - rows // 2, 1.0, -1.0)
    similarity, gradient = plain_halves(x.numpy(), codes)
    assert found.similarity.item() == pytest.approx(similarity, rel=1e-12)
    assert found.transport.item() == pytest.approx(np.mean((u - codes) ** 2), rel=1e-12)
    assert found.total.item() == pytest.approx(similarity + 3 * found.transport.item(), rel=1e-12)
    np.testing.assert_allclose(h.grad.numpy(), gradient + 6 * (u - codes) / (rows * 16), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("mode", "left", "right"), [(0.5, 0.1, 0.05), (0.7, 0.12, 0.12), (1.0, 0.02, 0.2)])
def test_ssdh_finds_the_thresholds_of_planted_half_gaussians(mode, left, right):
    rng = np.random.default_rng(0)
    count = 1_000_000
    below = int(count * left / (left + right))  # so that the density is continuous at the mode
    distances = np.concatenate(
        [
            mode - left * np.abs(rng.standard_normal(below)),
            mode + right * np.abs(rng.standard_normal(count - below)),
        ]
    )
    similar, dissimilar = clear_distances(distances)
    assert similar == pytest.approx(mode - 2 * left, abs=0.2 * left)
    assert dissimilar == pytest.approx(mode + 2 * right, abs=0.2 * right)


def test_ssdh_thresholds_are_of_gaussians_fitted_to_each_side():
    sample, _ = clusters(rows=200)
    method = made("ssdh", torch.from_numpy(sample))
    distances = pdist(sample.astype(np.float64), "cosine")
    counts, edges = np.histogram(distances, bins=100)
    mode = edges[counts.argmax() : counts.argmax() + 2].mean()
    left, right = distances[distances <= mode], distances[distances > mode]
    (mean_l, sd_l), (mean_r, sd_r) = (norm.fit(np.concatenate([side, 2 * mode - side])) for side in (left, right))
    assert method.similar == pytest.approx(mean_l - 2 * sd_l, abs=1e-4)
    assert method.dissimilar == pytest.approx(mean_r + 2 * sd_r, abs=1e-4)


def test_ssdh_loss_and_gradient_by_hand():
    x, h = draw(30, 6, seed=2) + 1, draw(30, 16, seed=1).requires_grad_()
    method = made("ssdh", bits=16)
    (total,) = method.loss(x, h)
    codes, kinds, expected = np.tanh(h.detach().numpy()), [], 0.0
    gradient = np.zeros_like(codes)
    for i, j in itertools.product(range(30), repeat=2):
        distance = 1 - cosine(x[i].numpy(), x[j].numpy())
        kind = 1 if distance < method.similar else -1 if distance > method.dissimilar else 0
        difference = codes[i] @ codes[j] / 16 - kind
        expected += abs(kind) * difference**2 / 30**2
        for one, other in ((i, j), (j, i)):
            gradient[one] += abs(kind) * 2 * difference * codes[other] / 16 / 30**2
        kinds.append(kind)
    assert min(kinds.count(kind) for kind in (-1, 0, 1)) > 10
    assert total.item() == pytest.approx(expected, rel=1e-12)
    total.backward()
    np.testing.assert_allclose(h.grad.numpy(), gradient * (1 - codes**2), rtol=1e-9, atol=1e-15)


def test_ssdh_warns_where_the_distances_have_no_tail(caplog):
    three = torch.eye(3, dtype=torch.float64).repeat_interleave(50, dim=0)
    with caplog.at_level(logging.WARNING, logger="sdc"):
        made("ssdh")
        assert not caplog.records
        made("ssdh", three + 0.01 * draw(150, 3))
    assert "ssdh finds no similar pairs" in caplog.text


def test_ssdh_refuses_rows_that_are_all_equal():
    with pytest.raises(SdcError, match="ssdh needs pairs of training rows at different distances"):
        sdc.Hasher(bits=16, method="ssdh").fit(np.ones((40, 8), np.float32))
