"""Methods that learn from two views of each row: real ones where the file has them, else copies with gaps."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import sdc
from sdc.extract.store import Column, Listing, write_features
from sdc.train.loop import fit
from sdc.train.model import Model
from sdc.train.presets import make_recipe
from sdc.train.run import TrainSettings, run

METHODS = ("sdc-contrastive", "cibhash", "nsh")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(6, size=480)
CLASSES = 1.5 * RNG.standard_normal((6, 8))
BITS = 32
# Short runs: a higher rate than published, and none of the decay at epoch 80.
SHORT = {"bits": BITS, "epochs": 30, "lr": 3e-3, "batch_size": 48, "hidden": 0}


def view(seed, signal):
    """The rows as seen once: 8 dimensions that tell what a row is of, and 16 of something else, drawn anew."""
    random = np.random.default_rng(seed)
    noisy = signal + 0.2 * random.standard_normal(signal.shape)
    return np.concatenate([noisy, 1.5 * random.standard_normal((len(signal), 16))], axis=1).astype(np.float32)


SIGNAL = CLASSES[LABELS] + 0.5 * RNG.standard_normal((len(LABELS), 8))
FIRST, SECOND, UNSEEN = (view(seed, SIGNAL) for seed in (1, 2, 3))
ROWS = np.arange(len(FIRST))


def codes(tensors, features):
    return np.where(Model(tensors, {}).outputs(features) > 0, 1, -1)


def precision(found):
    """The share of each row's ten nearest codes that are of its class."""
    similarity = found @ found.T - 2 * BITS * np.eye(len(found))
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :10]
    return (LABELS[nearest] == LABELS[:, None]).mean()


def agreement(tensors):
    """The similarity of the codes of two views of a row, beyond that of two rows: 0 where nothing was learned."""
    one, other = codes(tensors, FIRST), codes(tensors, UNSEEN)
    similarity = one @ other.T / BITS
    return similarity.diagonal().mean() - similarity.mean()


def trained(name, views, **settings):
    return fit(FIRST, ROWS, make_recipe(method=name, **{**SHORT, **settings}), views=views)


@pytest.mark.parametrize("name", METHODS)
def test_learning_beats_the_start_and_pulls_views_together(name):
    start, _ = trained(name, [SECOND], epochs=1, lr=1e-9)
    learned, summary = trained(name, [SECOND])
    losses = [epoch["total"] for epoch in summary["curve"]]
    assert losses[-1] < 0.95 * losses[0]
    assert precision(codes(learned, FIRST)) > precision(codes(start, FIRST)) + 0.15
    assert agreement(learned) > agreement(start) + 0.1


@pytest.mark.parametrize("name", METHODS)
def test_real_views_teach_what_copies_with_gaps_cannot(name):
    """What differs between real views of a row is noise, which a copy of one view has no way to know."""
    real, standing_in = trained(name, [SECOND])[0], trained(name, [])[0]
    assert agreement(real) > agreement(standing_in) + 0.05


def stored(folder, views):
    listing = Listing([str(row) for row in ROWS], {"train": ROWS}, LABELS)
    further = [Column("views/1/features", SECOND.shape, SECOND.dtype, [SECOND])] if views > 1 else []
    out = folder / f"{views}.h5"
    return write_features(out, listing, {"source": "import"}, FIRST.shape[1], np.float32, [FIRST], further=further)


@pytest.mark.parametrize("name", METHODS)
def test_train_takes_the_files_views_and_tells_of_stand_ins(name, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="sdc")
    told = {}
    found = {}
    for views in (1, 2):
        caplog.clear()
        settings = TrainSettings(
            stored(tmp_path, views), method=name, bits=BITS, epochs=2, batch_size=48, out=tmp_path / f"{views}.model"
        )
        found[views] = Model.load(run(settings)).tensors
        told[views] = [message for message in caplog.messages if "stand in" in message]
    (message,) = told[1]
    assert message.startswith(f"{name} learns from 2 views and the features hold 1: copies with 20 %")
    assert "sdc extract --views 2" in message
    assert told[2] == []
    for views, further in ((1, []), (2, [SECOND])):
        expected, _ = trained(name, further, epochs=2, lr=None, hidden=None)
        for key in expected:
            np.testing.assert_array_equal(found[views][key], expected[key])
    assert not np.array_equal(found[1]["output.weight"], found[2]["output.weight"])


@pytest.mark.parametrize("name", METHODS)
def test_the_api_trains_them_alike_each_time(name):
    settings = {**SHORT, "epochs": 2}
    first, again = (sdc.Hasher(method=name, **settings).fit(FIRST).outputs(FIRST) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (len(FIRST), BITS)
    other = sdc.Hasher(method=name, seed=1, **settings).fit(FIRST).outputs(FIRST)
    assert not np.array_equal(first, other)
