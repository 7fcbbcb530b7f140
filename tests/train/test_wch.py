"""WCH: similarities of patches by hand, weights, and that it learns what the patches say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import sdc
from sdc.errors import UsageError
from sdc.extract.store import Column, Listing, write_features
from sdc.train.loop import batches as batches_module
from sdc.train.loop import fit
from sdc.train.loop.batches import Batches
from sdc.train.loop.checkpoint import Checkpoint
from sdc.train.methods import load_method
from sdc.train.methods.wch import patch_similarities, similarity_weights
from sdc.train.model import Model
from sdc.train.presets import make_recipe
from sdc.train.run import TrainSettings, run

N, T, BITS = 480, 5, 16
RNG = np.random.default_rng(0)
ROWS = np.arange(N)
COLOURS, SHAPES = RNG.integers(4, size=(2, N))  # two ways to sort the rows
CENTRES = 2 * RNG.standard_normal((2, 4, 8))
X = np.concatenate([CENTRES[0][COLOURS], CENTRES[1][SHAPES]], 1)
X = (X + 1.5 * RNG.standard_normal(X.shape)).astype(np.float32)  # the features show both


def patches_of(kinds):
    """Tokens (N, T, 12) of images of one of 4 kinds: a patch in two is of the kind, the others are of anything."""
    kind, noise = RNG.standard_normal((4, 12)), RNG.standard_normal((N, T, 12))
    tokens = 0.5 * RNG.standard_normal((N, T, 12)) + np.where(RNG.random((N, T, 1)) < 0.5, noise, kind[kinds][:, None])
    return tokens.astype(np.float16)


TOKENS = {"colours": patches_of(COLOURS), "shapes": patches_of(SHAPES)}
SHORT = {"bits": BITS, "epochs": 20, "lr": 3e-3, "batch_size": 48, "hidden": 32}


def trained(name="wch", tokens=None, **chosen):
    return fit(X, ROWS, make_recipe(method=name, **{**SHORT, **chosen}), extras={"tokens": tokens})


def precision(tensors, labels):
    """The share of each row's ten nearest codes that have its label."""
    codes = np.where(Model(tensors, {}).outputs(X) > 0, 1, -1)
    nearest = np.argsort(-(codes @ codes.T - 2 * BITS * np.eye(N)), axis=1, kind="stable")[:, :10]
    return (labels[nearest] == labels[:, None]).mean()


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_patch_similarities_by_hand():
    """Two images with two patches each, in the plane: a at 0° and 90°, b at 60° and 180°.

    cosines      b 60°   b 180°  best
    a  0°         ½       −1      ½
    a 90°         √3/2     0      √3/2      mean (1 + √3)/4
    best          √3/2     0                mean √3/4
    """
    angles = torch.deg2rad(torch.tensor([[0.0, 90], [60, 180]]))
    lengths = torch.tensor([[1.0, 3], [0.5, 2]])
    tokens = lengths[..., None] * torch.stack([angles.cos(), angles.sin()], -1)
    expected = torch.tensor([[1, (1 + math.sqrt(3)) / 4], [math.sqrt(3) / 4, 1]])
    torch.testing.assert_close(patch_similarities(tokens), expected)
    weights = similarity_weights(expected)
    assert weights[0, 1].item() == pytest.approx(math.exp(((1 + math.sqrt(3)) / 4 - 1) / 0.2))
    assert weights[1, 0].item() == pytest.approx(math.exp((math.sqrt(3) / 4 - 1) / 0.2))


@settings(max_examples=25, deadline=None)
@given(b=st.integers(1, 6), t=st.integers(1, 5), w=st.integers(1, 7), seed=st.integers(0, 99))
def test_patch_similarities_are_the_plain_ones(b, t, w, seed):
    tokens = torch.randn(b, t, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = patch_similarities(tokens)
    for i in range(b):
        for j in range(b):
            best = [max(F.cosine_similarity(x, y, dim=0).item() for y in tokens[j]) for x in tokens[i]]
            assert found[i, j].item() == pytest.approx(sum(best) / t, abs=1e-9)


def test_the_order_of_patches_does_not_matter():
    tokens = torch.from_numpy(TOKENS["colours"][:20]).double()
    shuffled = torch.stack([image.roll(row, 0).flip(0) for row, image in enumerate(tokens)])
    torch.testing.assert_close(patch_similarities(shuffled), patch_similarities(tokens))


def test_weights_are_a_softmax_with_the_diagonal_scaled_to_one():
    similarities = torch.rand(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    shares = torch.softmax(similarities / 0.2, dim=1)
    weights = similarity_weights(similarities)
    torch.testing.assert_close(weights.diagonal(), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(1), 1 / shares.diagonal())
    torch.testing.assert_close(weights / weights.sum(1, keepdim=True), shares)


def loss(name, features, outputs, **tokens):
    method = load_method(name)(make_recipe(method=name, bits=8), len(features), features[:, 0])
    return method.loss(features, outputs, **tokens)


def test_the_loss_is_the_plain_one():
    features, outputs = random(6, 2, 5), random(6, 2, 8)
    tokens = random(6, 3, 4)
    first, second = outputs.sign().unbind(1)
    for name, given_tokens, similarities in (
        ("wch", {"tokens": tokens}, patch_similarities(tokens)),
        ("wch-global", {}, F.cosine_similarity(features[:, None, 0], features[None, :, 1], dim=-1)),
    ):
        found = loss(name, features, outputs, **given_tokens)
        weights, logits = similarity_weights(similarities), first @ second.T / (0.3 * 8)
        rows = [-(weights[i] * torch.log(logits[i].exp() / logits[i].exp().sum())).sum() for i in range(6)]
        assert found.contrastive.item() == pytest.approx(sum(rows).item() / 6, rel=1e-5)
        assert found.balance.item() == pytest.approx((first.mean(0) ** 2).mean().item() - 1, abs=1e-6)
        assert found.total.item() == pytest.approx((found.contrastive + found.balance).item())


def test_only_signs_count_and_the_gradient_passes_through_tanh():
    features, tokens = random(6, 2, 5), random(6, 3, 4)

    def at(outputs):
        outputs = outputs.detach().requires_grad_()
        found = loss("wch", features, outputs, tokens=tokens).total
        return found.item(), torch.autograd.grad(found, outputs)[0] / (1 - outputs.detach().tanh() ** 2)

    outputs = random(6, 2, 8)
    (found, gradient), (again, farther) = at(outputs), at(3 * outputs)
    assert found == again
    torch.testing.assert_close(gradient, farther)  # by tanh(outputs): that at the signs, wherever the outputs are
    assert (gradient.abs() > 0).all()


@pytest.mark.parametrize("sorted_by", ["colours", "shapes"])
def test_it_learns_what_the_patches_say(sorted_by):
    """The features show two ways to sort the rows; the patches show one of them, and this the codes take up."""
    wanted, other = (COLOURS, SHAPES) if sorted_by == "colours" else (SHAPES, COLOURS)
    start, _ = trained(tokens=TOKENS[sorted_by], epochs=1, lr=1e-9)
    learned, summary = trained(tokens=TOKENS[sorted_by])
    assert summary["curve"][-1]["total"] < 0.97 * summary["curve"][0]["total"]
    assert precision(learned, wanted) > max(precision(start, wanted), precision(learned, other)) + 0.25


def test_the_global_one_learns_from_features_alone():
    start, _ = trained("wch-global", epochs=1, lr=1e-9)
    learned, _ = trained("wch-global")
    assert precision(learned, 4 * COLOURS + SHAPES) > precision(start, 4 * COLOURS + SHAPES) + 0.1


@pytest.mark.parametrize("name", ["wch-global", "tbh"])
def test_other_methods_take_no_notice_of_tokens(name):
    assert equal(trained(name, epochs=2)[0], trained(name, epochs=2, tokens=TOKENS["shapes"])[0])


def test_equal_seeds_give_equal_runs_resumed_bit_for_bit(killed_before, tmp_path):
    chosen = {"tokens": TOKENS["colours"], "epochs": 3}
    undisturbed, _ = trained(**chosen)
    assert equal(undisturbed, trained(**chosen)[0])
    assert not equal(undisturbed, trained(**chosen, seed=1)[0])
    recipe, checkpoint = make_recipe(method="wch", **{**SHORT, "epochs": 3}), Checkpoint(tmp_path / "m", {})
    with killed_before(17):
        fit(X, ROWS, recipe, extras={"tokens": TOKENS["colours"]}, checkpoint=checkpoint)
    resumed, _ = fit(X, ROWS, recipe, extras={"tokens": TOKENS["colours"]}, checkpoint=checkpoint, resume=True)
    assert equal(undisturbed, resumed)


def test_without_tokens_it_is_refused():
    with pytest.raises(UsageError, match=r"wch learns from tokens.*sdc extract --tokens.*wch-global"):
        sdc.Hasher(bits=8, method="wch").fit(X)


@pytest.fixture
def store(tmp_path):
    """feats.h5 with tokens; the rows to train on begin behind others."""
    path = tmp_path / "feats.h5"
    listing = Listing([str(row) for row in ROWS], {"train": ROWS[100:]}, COLOURS)
    tokens = Column("tokens", TOKENS["colours"].shape, TOKENS["colours"].dtype, [TOKENS["colours"]])
    return write_features(path, listing, {}, X.shape[1], X.dtype, [X], further=[tokens])


def test_the_command_takes_tokens_from_the_file(store, tmp_path):
    short = {**SHORT, "epochs": 2}
    out = run(TrainSettings(features=store, method="wch", out=tmp_path / "m.safetensors", **short))
    expected, _ = fit(X, ROWS[100:], make_recipe(method="wch", **short), extras={"tokens": TOKENS["colours"]})
    np.testing.assert_array_equal(Model.load(out).outputs(X), Model(expected, {}).outputs(X))


def test_nothing_is_written_where_the_file_has_no_tokens(tmp_path):
    path = write_features(tmp_path / "feats.h5", Listing(["a", "b"], {"train": ROWS[:2]}), {}, 16, X.dtype, [X[:2]])
    with pytest.raises(UsageError, match="--tokens"):
        run(TrainSettings(features=path, method="wch", out=tmp_path / "m.safetensors"))
    assert [file.name for file in tmp_path.iterdir()] == ["feats.h5"]


@pytest.mark.parametrize("from_disk", [False, True])
def test_batches_bring_the_tokens_of_their_rows(tmp_path, monkeypatch, from_disk):
    sizes = {"IN_MEMORY": 0 if from_disk else 1 << 30, "BLOCK": 8 * X[0].nbytes, "WINDOW": X.nbytes // 4}
    for name, size in sizes.items():
        monkeypatch.setattr(batches_module, name, size)
    X.tofile(tmp_path / "x")
    features = np.memmap(tmp_path / "x", X.dtype, "r", shape=X.shape)
    shares = [Batches(features, ROWS, 48, 0, rank, 2, extras={"tokens": TOKENS["shapes"]}) for rank in (0, 1)]
    assert (shares[0]._map is not None) == from_disk
    for batch in (batch for share in shares for batch in share.epoch(0, step=3)):
        np.testing.assert_array_equal(batch.extras["tokens"], TOKENS["shapes"][batch.rows])
        np.testing.assert_array_equal(batch.features, X[batch.rows])
        assert len(batch.rows) == 24
