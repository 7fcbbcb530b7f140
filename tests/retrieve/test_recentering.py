"""Re-centring: a head trained on one set, and a database whose features lie elsewhere by a constant vector."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdc.errors import UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.bits import pack
from sdc.retrieve.diagnose import DiagnoseSettings, diagnose
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.evaluate import EvaluateSettings, evaluate
from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
from sdc.train.model import Model
from sdc.train.run import TrainSettings
from sdc.train.run import run as train

ROWS, QUERIES, DIMENSION, CLASSES = 640, 40, 32, 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """home.h5, away.h5 (the same rows, moved), and a head that learnt from home.h5 as the paper's instance sets do."""
    folder = tmp_path_factory.mktemp("recentering")
    rng = np.random.default_rng(0)
    kind = rng.integers(CLASSES, size=ROWS)
    home = rng.standard_normal((CLASSES, DIMENSION))[kind] + 0.5 * rng.standard_normal((ROWS, DIMENSION))
    away = home + 10 * rng.standard_normal(DIMENSION)
    splits = {"train": np.arange(QUERIES, ROWS), "query": np.arange(QUERIES), "database": np.arange(QUERIES, ROWS)}
    listing = Listing([f"{row:03}" for row in range(ROWS)], splits, labels=kind.astype(np.int32))
    for name, features in (("home", home), ("away", away)):
        origin = {"source": "import", "dataset": name, "protocol": {"name": "category", "at": 100}}
        write_features(folder / f"{name}.h5", listing, origin, DIMENSION, np.float32, [features.astype(np.float32)])
    train(settings_in(folder))
    return folder


def settings_in(folder: Path) -> TrainSettings:
    return TrainSettings(
        features=folder / "home.h5", preset="paper-instance", bits=32, batch_size=32, lr=1e-3,
        device="cpu", out=folder / "model.safetensors",
    )  # fmt: skip


def encoded(folder: Path, features: str, out: Path, **options: object) -> Path:
    paths = {"features": folder / f"{features}.h5", "model": folder / "model.safetensors"}
    return run(EncodeSettings(**{**paths, "out": out, **options}))


def score(index: Path, trained: Path, features: str) -> float:
    return evaluate(EvaluateSettings(index=index, features=trained / f"{features}.h5"))["map"]


def test_a_moved_database_collapses_and_recovers(trained, tmp_path, caplog):
    home = encoded(trained, "home", tmp_path / "home.bin", recenter=False)
    kept = encoded(trained, "away", tmp_path / "kept.bin", recenter=False)
    with caplog.at_level(logging.INFO, "sdc"):
        anew = encoded(trained, "away", tmp_path / "anew.bin", recenter=True)
    assert "the batch norm is re-centred" in caplog.text
    at_home, collapsed, recovered = (
        score(home, trained, "home"),
        score(kept, trained, "away"),
        score(anew, trained, "away"),
    )
    assert at_home > 0.9
    assert collapsed < 0.6 * at_home
    assert recovered > at_home - 0.03

    found = {path: diagnose(DiagnoseSettings(path, trained / "away.h5")) for path in (kept, anew)}
    assert found[kept]["findings"]
    assert found[kept]["effective_bits"] < 0.5 * found[anew]["effective_bits"]
    assert {finding["finding"] for finding in found[kept]["findings"]} > {
        finding["finding"] for finding in found[anew]["findings"]
    }


def test_a_constant_vector_makes_no_difference_once_recentered(trained, tmp_path):
    home, away = (Index.open(encoded(trained, name, tmp_path / name, recenter=True)) for name in ("home", "away"))
    for one, other in ((home.database, away.database), (home.queries, away.queries)):
        flipped = np.unpackbits(one.codes ^ other.codes).mean()
        assert flipped < 1e-3  # outputs nearer to zero than float32 tells


def test_the_databases_mean_alone_gives_the_codes(trained, tmp_path, monkeypatch):
    model, store = Model.load(trained / "model.safetensors"), FeatureStore(trained / "away.h5")
    index = Index.open(encoded(trained, "away", tmp_path / "db.bin", recenter=True))
    mean = np.array(index.metadata["model"]["recentered"]["mean"])
    t = {name: tensor.astype(np.float64) for name, tensor in model.tensors.items()}
    rows = store.splits["database"]
    z = store.take(rows).astype(np.float64) @ t["output.weight"].T + t["output.bias"]
    np.testing.assert_allclose(mean, z.mean(0), rtol=1e-6, atol=1e-6)
    outputs = (z - z.mean(0)) / np.sqrt(t["norm.running_var"] + 1e-5) * t["norm.weight"] + t["norm.bias"]
    assert ((pack(outputs) == index.database.codes).all(axis=1) | (np.abs(outputs).min(axis=1) < 1e-4)).all()

    monkeypatch.setattr("sdc.retrieve.encode._BLOCK", 7)
    in_blocks = Index.open(encoded(trained, "away", tmp_path / "blocks.bin", recenter=True))
    np.testing.assert_allclose(in_blocks.metadata["model"]["recentered"]["mean"], mean, rtol=0, atol=1e-6)


def test_queries_of_every_kind_are_encoded_alike(trained, tmp_path):
    index = encoded(trained, "away", tmp_path / "db.bin", recenter=True)
    store = FeatureStore(trained / "away.h5")
    np.save(tmp_path / "queries.npy", store.take(store.splits["query"]))
    settings = SearchSettings(index=index, k=12)
    of_split = search(settings)["results"]
    ids = tuple(result["query"] for result in of_split)
    for same in (replace(settings, queries=tmp_path / "queries.npy"), replace(settings, ids=ids)):
        assert [found["neighbors"] for found in search(same)["results"]] == [found["neighbors"] for found in of_split]


def test_images_are_encoded_alike(tmp_path):
    from PIL import Image

    from sdc.extract import ExtractSettings
    from sdc.extract import extract_features as extract

    rng = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 48)).save(folder / f"{number}.png")
    images = ExtractSettings(
        "test_resnet",
        "folder",
        tmp_path / "images",
        "random:0",
        64,
        out=tmp_path / "images.h5",
        workers=1,
        device="cpu",
    )
    store = FeatureStore(extract(images))
    ones = np.ones(128, np.float32)
    tensors = {
        "output.weight": rng.standard_normal((128, store.dimension)) / store.features.std(), "output.bias": 1000 * ones,
        "norm.running_mean": 0 * ones, "norm.running_var": ones, "norm.weight": ones, "norm.bias": 0 * ones,
    }  # fmt: skip
    Model(tensors, {"method": "sdc", "settings": {}}).save(tmp_path / "model.safetensors")
    index = encoded(tmp_path, "images", tmp_path / "db.bin", recenter=True)
    names = Index.open(index).database.names()
    assert len(np.unique(Index.open(index).database.codes, axis=0)) == len(names)
    found = search(SearchSettings(index, images=tuple(tmp_path / "images" / name for name in names), k=1))["results"]
    nearest = [result["neighbors"][0] for result in found]
    assert [near["id"] for near in nearest] == names
    assert max(near["distance"] for near in nearest) <= 3  # features are stored in half precision, a bit may flip


def test_the_preset_for_instance_sets_does_it_by_default(trained, tmp_path):
    chosen = Index.open(encoded(trained, "away", tmp_path / "default.bin"))
    asked = Index.open(encoded(trained, "away", tmp_path / "asked.bin", recenter=True))
    left = Index.open(encoded(trained, "away", tmp_path / "left.bin", recenter=False))
    assert chosen.metadata == asked.metadata
    assert "recentered" not in left.metadata["model"]
    assert left.metadata["settings"] == {"index_type": "flat"}
    assert len({index.fingerprint for index in (chosen, asked, left)}) == 2

    other = Model.load(trained / "model.safetensors")
    other.metadata["preset"] = "default"
    other.save(tmp_path / "model.safetensors")
    plain = Index.open(encoded(trained, "away", tmp_path / "plain.bin", model=tmp_path / "model.safetensors"))
    assert (plain.database.codes == left.database.codes).all()


def test_a_head_without_batch_norm_has_nothing_to_recenter(scene, trained, tmp_path):
    with pytest.raises(UsageError, match=r"--recenter: the head of .* \(method lsh\) has no batch norm.*--norm"):
        scene.encode(out="other.bin", recenter=True)
    assert not (scene.folder / "other.bin").exists()
    # By the preset's default it is encoded as it is.
    train(replace(settings_in(trained), method="itq", out=tmp_path / "itq.safetensors"))
    index = Index.open(encoded(trained, "away", tmp_path / "itq.bin", model=tmp_path / "itq.safetensors"))
    assert "recentered" not in index.metadata["model"]


def test_one_index_is_not_taken_for_the_other(trained, tmp_path, caplog):
    index = encoded(trained, "away", tmp_path / "db.bin")
    before = index.read_bytes()
    with caplog.at_level(logging.INFO, "sdc"):
        encoded(trained, "away", index)
    assert "nothing to do" in caplog.text
    with pytest.raises(UsageError, match=r"settings\.recenter: found true, wanted null"):
        encoded(trained, "away", index, recenter=False)
    assert index.read_bytes() == before

    # Nor is the head with the mean put in: the index records the one that was trained.
    mean = np.array(Index.open(index).metadata["model"]["recentered"]["mean"])
    changed = Model.load(trained / "model.safetensors").recentered(mean)
    changed.save(tmp_path / "changed.safetensors")
    np.save(tmp_path / "queries.npy", np.ones((2, DIMENSION), np.float32))
    with pytest.raises(UsageError, match=changed.fingerprint):
        search(SearchSettings(index, tmp_path / "queries.npy", model=tmp_path / "changed.safetensors"))


def test_the_name_of_the_preset_is_recorded_and_is_no_setting(trained, caplog):
    model = Model.load(trained / "model.safetensors")
    assert model.metadata["preset"] == "paper-instance"
    settings = settings_in(trained)
    spelt_out = replace(settings, preset="default", **vars(settings.recipe()))
    with caplog.at_level(logging.INFO, "sdc"):
        train(spelt_out)
    assert "nothing to do" in caplog.text


def test_from_the_command_line(trained, command):
    for name in ("away.h5", "model.safetensors"):
        (command.folder / name).symlink_to(trained / name)
    store = FeatureStore(trained / "away.h5")
    np.save(command.folder / "queries.npy", store.take(store.splits["query"]))
    chain = ("encode", "--features", "away.h5")
    command(*chain, "--recenter")
    command(*chain, "--no-recenter", "--out", "kept.bin")
    index = command.json("inspect", "db.bin")
    assert len(index["model"]["recentered"]["mean"]) == 32
    assert index["fingerprint"] != command.json("inspect", "kept.bin")["fingerprint"]
    by_vector = command.json("search", "--queries", "queries.npy", "--limit", "5")["results"]
    by_id = command.json("search", *(word for row in range(5) for word in ("--id", f"{row:03}")))["results"]
    of_split = command.json("search", "--limit", "5")["results"]
    for found in (by_id, of_split):
        assert [result["neighbors"] for result in found] == [result["neighbors"] for result in by_vector]
    maps = [command.json("evaluate", "--index", name)["map"] for name in ("kept.bin", "db.bin")]
    assert maps[0] < 0.6 * maps[1]
    assert json.loads(command(*chain, "--json").stdout)["fingerprint"] == index["fingerprint"]  # the preset's default
    assert "settings.recenter: found true, wanted null" in command.error(*chain, "--no-recenter", code=2)
