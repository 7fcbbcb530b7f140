"""Early stopping on held-out rows, and budgets."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from sdc.errors import UsageError
from sdc.train.loop import fit
from sdc.train.loop.checkpoint import Checkpoint
from sdc.train.loop.early_stopping import Agreement, held_out
from sdc.train.presets import make_recipe

RNG = np.random.default_rng(0)
LABELS = RNG.integers(20, size=3000)
X = (RNG.standard_normal((20, 40))[LABELS] + RNG.standard_normal((3000, 40))).astype(np.float32)
ROWS = np.arange(3000)


def expected_agreement(codes, near, database, orders=400):
    """By brute force: ties in random order, again and again."""
    distances = (codes[:, None] != database[None]).sum(-1)
    kept = []
    for _ in range(orders):
        ranked = np.argsort(distances + RNG.random(distances.shape) * 0.5, axis=1)[:, :10]
        kept.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ranked, near, strict=True)]))
    return np.mean(kept)


@pytest.mark.parametrize("bits", [4, 24])
def test_the_agreement_is_the_expected_share_of_neighbors(bits):
    x = torch.from_numpy(X[:300])
    unit = nn.functional.normalize(x)
    torch.manual_seed(0)
    head = nn.Linear(40, bits)
    near = (unit[:40] @ unit[40:].T).argsort(1, descending=True)[:, :10].numpy()
    codes = (head(x) > 0).numpy()
    found = Agreement(unit[:40] @ unit[40:].T, x[:40], x[40:])(head)
    assert found == pytest.approx(expected_agreement(codes[:40], near, codes[40:]), abs=0.01)


def test_codes_that_are_the_features_keep_their_neighbours():
    signs = torch.sign(torch.from_numpy(RNG.standard_normal((200, 64)).astype(np.float32)))
    assert Agreement(signs[:50] @ signs.T, signs[:50], signs)(nn.Identity()) > 0.9


def test_held_out_rows_are_apart_and_the_same_each_time():
    rows = np.arange(0, 50_000, 2)
    rest, held = held_out(rows, seed=1)
    assert len(held) == 1000
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held])), rows)
    np.testing.assert_array_equal(held_out(rows, seed=1)[1], held)
    assert len(held_out(rows[:50], seed=1)[1]) == 5
    assert not np.array_equal(held_out(rows, seed=2)[1], held)


def test_training_stops_when_held_out_rows_gain_nothing():
    recipe = make_recipe(bits=16, epochs=2000, batch_size=64)
    _, summary = fit(X, ROWS, recipe)
    assert summary["held_out"] == 300
    assert summary["rows"] == 2700
    # patience · (cuts + 1) checks after the best, at least; far from 2000 epochs
    assert 20 * 100 <= summary["steps"] <= 20_000
    assert summary["best_step"] < summary["steps"]
    assert 0.1 < summary["agreement"] <= 1


def test_what_is_kept_is_the_best_head_not_the_last(monkeypatch):
    """Agreement is made to rise to step 300 and to fall from there on."""
    seen = {}

    def planted(self, head):
        number = len(seen)
        seen[number] = {name: value.clone() for name, value in head.state_dict().items()}
        return 0.5 - 0.01 * abs(number - 3)

    monkeypatch.setattr(Agreement, "__call__", planted)
    tensors, summary = fit(X, ROWS, make_recipe(bits=16, epochs=30, batch_size=64, space="raw"))
    assert summary["best_step"] == 300
    np.testing.assert_array_equal(tensors["output.weight"], seen[3]["output.weight"].numpy())
    assert not np.array_equal(tensors["output.weight"], seen[5]["output.weight"].numpy())


@pytest.mark.parametrize(("locality", "first"), [(0.0, 0), (1.0, 100)])
def test_the_start_is_a_candidate_only_without_locality(monkeypatch, locality, first):
    falling = iter(range(1000, 0, -1))
    monkeypatch.setattr(Agreement, "__call__", lambda self, head: next(falling) / 1000)
    _, summary = fit(X, ROWS, make_recipe(bits=16, epochs=30, batch_size=64, locality=locality))
    assert summary["best_step"] == first


def test_short_or_impatient_runs_hold_nothing_out():
    for chosen in ({"epochs": 3}, {"epochs": 25, "patience": 0}):
        _, summary = fit(X, ROWS, make_recipe(bits=16, batch_size=64, **chosen))
        assert (summary["held_out"], summary["agreement"]) == (0, None)
        assert summary["steps"] == chosen["epochs"] * (3000 // 64)


def test_a_stopped_run_resumes_bit_for_bit_with_its_best_head(stopped_after, tmp_path):
    recipe = make_recipe(bits=16, epochs=30, batch_size=64, lr=0.05)
    undisturbed, expected = fit(X, ROWS, recipe)
    checkpoint = Checkpoint(tmp_path / "m", {})
    with stopped_after(777):
        fit(X, ROWS, recipe, checkpoint=checkpoint)
    resumed, summary = fit(X, ROWS, recipe, checkpoint=checkpoint, resume=True)
    assert summary == expected
    for name, value in undisturbed.items():
        np.testing.assert_array_equal(resumed[name], value)


def test_a_budget_is_kept_and_gives_the_best_head_found():
    recipe = make_recipe(bits=16, budget=3.0, batch_size=64, patience=1000)
    started = time.monotonic()
    _, summary = fit(X, ROWS[:1000], recipe)
    assert 2.9 < time.monotonic() - started < 6
    assert summary["epochs"] > 10  # no other limit
    assert summary["agreement"] > 0.1
    assert summary["steps"] == summary["epochs"] * (900 // 64) + summary["steps"] % (900 // 64)


def test_a_budget_too_small_for_a_step_gives_the_start():
    tensors, summary = fit(X, ROWS, make_recipe(bits=16, budget=1e-9))
    assert summary["steps"] == 1
    assert np.isfinite(tensors["output.weight"]).all()


def test_a_budget_lifts_the_presets_limit_but_not_a_chosen_one():
    assert make_recipe(budget=5.0).epochs == 0
    assert make_recipe("paper-code", budget=5.0).epochs == 0
    assert make_recipe(budget=5.0, epochs=3).epochs == 3
    with pytest.raises(UsageError, match="budget = -1"):
        make_recipe(budget=-1.0)
    with pytest.raises(UsageError, match="epochs = 0"):
        make_recipe(epochs=0)
