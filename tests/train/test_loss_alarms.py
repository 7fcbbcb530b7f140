"""Alarms on a run's curve: planted failures are named, sound curves are not."""

from __future__ import annotations

import numpy as np
import pytest

import sdc
from sdc.train.loss_alarms import training_alarms


def curve(total, calibration=None):
    if calibration is None:
        return [{"total": float(value)} for value in total]
    return [{"total": float(t), "calibration": float(c)} for t, c in zip(total, calibration, strict=True)]


RISING = [0.30, 0.25, 0.24, 0.26, 0.31, 0.38]
FALLING = [0.30, 0.26, 0.24, 0.23, 0.225, 0.22]
SWINGING = [0.5, 0.2, 0.4, 0.22, 0.45, 0.21, 0.4]


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        (curve(RISING), ("the loss rises", "best was 0.24 (epoch 3)", "diverges", "--lr")),
        (curve([0.3, 0.5, 0.9]), ("the loss rises", "epoch 1")),
        (curve([-0.5, -0.9, -0.4, -0.1]), ("the loss rises",)),
        (curve(FALLING, RISING), ("the calibration term rises",)),
        (curve(SWINGING), ("the loss oscillates", "--lr", "--batch-size")),
        (curve([0.7, *FALLING], SWINGING), ("the calibration term oscillates",)),
        (curve([0.3, 0.304, 0.299, 0.3, 0.301]), ("the loss does not fall", "nothing is learned", "--epochs")),
        (curve(FALLING, [0.129, 0.1291, 0.129, 0.1289, 0.129, 0.1288]), ("calibration term", "the collapse persists")),
    ],
)
def test_failing_curves_are_named_in_one_message(epochs, words):
    (message,) = training_alarms(epochs)
    for word in words:
        assert word in message


@pytest.mark.parametrize("length", [0, 1, 2])
def test_one_or_two_epochs_say_nothing(length):
    assert training_alarms(curve(RISING[-length:] if length else [])) == []


def test_a_few_epochs_may_stand_still():
    assert training_alarms(curve([0.3, 0.3, 0.3, 0.3])) == []


def test_a_noisy_term_is_no_collapse_while_the_loss_falls():
    assert training_alarms(curve(FALLING, [0.20, 0.21, 0.198, 0.208, 0.201, 0.206])) == []


@pytest.mark.parametrize("seed", range(20))
def test_falling_curves_with_noise_raise_no_alarm(seed):
    random = np.random.default_rng(seed)
    epochs = np.arange(random.integers(3, 120))
    start, end, pace = random.uniform(0.25, 1), random.uniform(0, 0.2), random.uniform(0.5, 8)
    noise = 1 + 0.01 * random.standard_normal((2, len(epochs)))
    values = end + (start - end) * np.exp(-epochs / pace)
    assert training_alarms(curve(values * noise[0])) == []
    assert training_alarms(curve((values + 0.1) * noise[0], values * noise[1])) == []
    assert training_alarms(curve(-end - start + values)) == []  # losses may be negative


X = np.random.default_rng(0).standard_normal((5, 24))[np.arange(600) % 5] * 2
X = (X + np.random.default_rng(1).standard_normal(X.shape)).astype(np.float32)


@pytest.mark.parametrize(
    "settings",
    [{}, {"bits": 16}, {"epochs": 20}, {"pairs": "all"}, {"head": "linear"}, {"calibration": "beta:5,5"}],
    ids=str,
)
def test_trained_heads_raise_no_alarm_and_untrained_ones_do(settings):
    settings = {"method": "sdc", "batch_size": 64, "epochs": 8, "head": "mlp", "init": "random", "lr": 2e-3, **settings}
    assert training_alarms(sdc.Hasher(**settings).fit(X).model.metadata["training"]["curve"]) == []
    still = sdc.Hasher(**{**settings, "lr": 1e-9}).fit(X).model.metadata["training"]["curve"]
    assert any("collapse persists" in alarm for alarm in training_alarms(still))


@pytest.mark.parametrize("locality", [0.0, 1.0])
def test_a_run_from_a_solution_need_not_improve(locality):
    hasher = sdc.Hasher(batch_size=64, epochs=8, locality=locality).fit(X)
    assert training_alarms(hasher.model.metadata["training"]["curve"], solved=True) == []
