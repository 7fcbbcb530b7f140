"""The goal neighbors: better than ITQ in both readings, the same however it is run."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

import sdc
from sdc.api import inspect
from sdc.arrays import unit_rows
from sdc.extract import ImportSettings, import_features
from sdc.train import Model, TrainSettings, fit_tables, train_head
from sdc.train.loop import Interrupted
from sdc.train.methods.neighbors import Neighbors

DIMENSION, ROWS, QUERIES = 32, 2500, 200


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    """Learning the tables that score, of ITQ's codes too, takes the most of a training of so few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_tables, "DIALS", {name: replace(dial, steps=15) for name, dial in fit_tables.DIALS.items()})
        patch.setattr(fit_tables, "SIGNS", 15)
        yield


def fine_structure(rows, seed):
    """Groups of clusters, in each of which rows lie along a few directions of the cluster's own."""
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((8, DIMENSION))
    centres = groups[rng.integers(8, size=60)] + 0.6 * rng.standard_normal((60, DIMENSION))
    directions = rng.standard_normal((60, 4, DIMENSION)) * 0.3
    cluster = rng.integers(60, size=rows)
    along = np.einsum("nk,nkd->nd", rng.standard_normal((rows, 4)), directions[cluster])
    return (centres[cluster] + along + 0.05 * rng.standard_normal((rows, DIMENSION))).astype(np.float32)


def recall(scores, near):
    """The share of the 10 nearest among the 10 of highest score, ties in random order."""
    jitter = np.random.default_rng(0).random(scores.shape) * 1e-6
    ranked = (scores + jitter).argsort(axis=1)[:, -10:]
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ranked, near, strict=True)])


def recalls(hasher, database, queries):
    """By Hamming distance, and with the query in float."""
    near = (unit_rows(queries) @ unit_rows(database).T).argsort(axis=1)[:, -10:]
    codes, decoder = hasher.encode(database), hasher.model.tables.decoder
    signs, query_signs = (
        np.unpackbits(some, axis=1).astype(np.float32) * 2 - 1 for some in (codes, hasher.encode(queries, query=True))
    )
    in_float = decoder.scores(queries, codes, decoder.lengths(codes))
    return recall(query_signs @ signs.T / signs.shape[1], near), recall(in_float, near)


@pytest.mark.parametrize("seed", range(3))
def test_it_beats_itq_by_hamming_and_in_float(seed):
    x = fine_structure(ROWS + QUERIES, seed)
    database, queries = x[:ROWS], x[ROWS:]
    small = {"bits": 32, "seed": seed}
    ours = sdc.Hasher(goal="neighbors", steps=60, batch_size=512, hidden=64, **small).fit(database)
    itq = sdc.Hasher(method="itq", tables=True, **small).fit(database)
    (hamming, in_float), (hamming_itq, in_float_itq) = (recalls(one, database, queries) for one in (ours, itq))
    assert hamming > 1.05 * hamming_itq
    assert in_float > 1.05 * in_float_itq
    assert in_float > hamming


SMALL = {"bits": 16, "goal": "neighbors", "steps": 8, "batch_size": 256, "hidden": 16, "price": 0.02}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """vectors.npy and feats.h5 of them."""
    folder = tmp_path_factory.mktemp("neighbors")
    np.save(folder / "vectors.npy", fine_structure(1500, 0))
    import_features(ImportSettings(folder / "vectors.npy", out=folder / "feats.h5"))
    return folder


def train(folder, out, **changes):
    return train_head(TrainSettings(features=folder / "feats.h5", out=out, **{**SMALL, **changes}))


@pytest.mark.parametrize("steps", [1, 5, 7])
def test_interrupted_and_resumed_it_gives_the_same_file(stopped_after, folder, tmp_path, steps):
    undisturbed = train(folder, tmp_path / "whole.safetensors")
    with stopped_after(steps, match="--resume"):
        train(folder, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
    resumed = train(folder, tmp_path / "model.safetensors", resume=True)
    assert resumed.read_bytes() == undisturbed.read_bytes()
    assert not (tmp_path / "model.safetensors.checkpoint").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_tables_are_fitted_it_keeps_the_head(folder, tmp_path, monkeypatch, number):
    undisturbed = train(folder, tmp_path / "whole.safetensors")
    out, learn = tmp_path / "model.safetensors", fit_tables.learn_decoder

    def asked(*arguments):
        os.kill(os.getpid(), number)
        return learn(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=r"byte tables were fitted; .*--resume"):
        patch.setattr(fit_tables, "learn_decoder", asked)
        train(folder, out)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Neighbors, "loss", None)  # no step is taken again
        train(folder, out, resume=True)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert not (tmp_path / "model.safetensors.checkpoint").exists()


def test_torch_numpy_and_a_memory_map_give_the_same_codes(folder):
    x = np.load(folder / "vectors.npy")
    expected = sdc.Hasher(**SMALL).fit(x).encode(x)
    mapped = np.load(folder / "vectors.npy", mmap_mode="r")
    np.testing.assert_array_equal(sdc.Hasher(**SMALL).fit(mapped).encode(mapped), expected)
    tensor = torch.from_numpy(x)
    np.testing.assert_array_equal(sdc.Hasher(**SMALL).fit(tensor).encode(tensor), expected)


def test_a_saved_hasher_refines_alike(folder, tmp_path):
    x = np.load(folder / "vectors.npy")
    hasher = sdc.Hasher(**SMALL).fit(x)
    again = sdc.Hasher.load(hasher.save(tmp_path / "model.safetensors"))
    assert again.recipe == hasher.recipe
    for query in (False, True):
        np.testing.assert_array_equal(again.encode(x, query=query), hasher.encode(x, query=query))


def test_it_trains_on_the_database_without_the_queries(tmp_path):
    """Other queries, other rows outside the database: the same head."""
    np.savez(tmp_path / "splits.npz", train=np.arange(9), query=np.arange(50), database=np.arange(1200))
    models = []
    for name, scale in (("one", 1), ("other", -3)):
        x = fine_structure(1500, 0)
        x[:50] *= scale
        x[1200:] *= scale
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "vectors.npy", x)
        paths = {"splits": tmp_path / "splits.npz", "out": tmp_path / name / "feats.h5"}
        import_features(ImportSettings(tmp_path / name / "vectors.npy", **paths))
        models.append(Model.load(train(tmp_path / name, tmp_path / name / "model.safetensors")))
    assert [model.metadata["training"]["rows"] for model in models] == [1150, 1150]
    for name, tensor in models[0].tensors.items():
        np.testing.assert_array_equal(models[1].tensors[name], tensor)


def test_a_model_says_how_it_was_trained(folder, tmp_path):
    model = Model.load(train(folder, tmp_path / "model.safetensors"))
    assert (model.metadata["goal"], model.metadata["method"]) == ("neighbors", "neighbors")
    assert model.metadata["training"]["steps"] == 8
    assert model.tables.price == model.metadata["settings"]["price"] == 0.02
    assert {"unit.epsilon", "residual.weight", "hidden.weight"} <= set(model.tensors)


def test_inspect_shows_the_price_that_the_dial_gave(folder, tmp_path):
    shown = inspect(train(folder, tmp_path / "model.safetensors", price=None))
    assert shown["settings"]["search_by"] == "both"
    assert shown["settings"]["price"] == shown["tables"]["price"] == fit_tables.DIALS["both"].price
    assert shown["tables"]["decoder"]["longest"] > shown["tables"]["decoder"]["shortest"] > 0
