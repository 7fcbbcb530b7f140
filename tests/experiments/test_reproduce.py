"""`sdc reproduce`: tables of the paper from images to figures, on replicas of the sets; plans, errors and resuming."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sdc.cli import cli
from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.reproduce import TABLES, ReproduceSettings, report
from sdc.reproduce.job import prepare


def module(name: str) -> ModuleType:
    """A file of the extraction's tests, whose replicas of the sets serve here too."""
    spec = importlib.util.spec_from_file_location(
        f"replicas_{name}", Path(__file__).parents[1] / "extract" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look there
    spec.loader.exec_module(loaded)
    return loaded


replicas, shared = module("test_category_sets"), module("conftest")
photographs, landmarks = shared.photographs, shared.landmarks  # fixtures

SMALL = ("--backbone", "test_resnet", "--weights", "random:0", "--device", "cpu", "--jobs", "2")


def sdc(*arguments: Any) -> Any:
    """What a command prints with --json, run in this process; errors are raised."""
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False, standalone_mode=False)
    return json.loads(done.stdout)


def printed(*arguments: Any) -> str:
    return CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False, standalone_mode=False).output


def files(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cifar")
    replicas.cifar10(root)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cifar: Path) -> tuple[Path, tuple[Any, ...], dict[str, Any]]:
    """A finished category table, the command that made it, and what that printed."""
    out = tmp_path_factory.mktemp("tables") / "cifar10"
    command = (
        "reproduce", "cifar10", "--root", cifar, *SMALL, "--limit", 120, "--bits", "16,32",
        "--methods", "itq,greedyhash,sdc,default", "--out", out,
    )  # fmt: skip
    return out, command, sdc(*command)


def test_a_category_table_from_images_to_differences(made: tuple[Path, tuple[Any, ...], dict[str, Any]]) -> None:
    out, _, found = made
    places = [(row["method"], row["bits"]) for row in found["rows"]]
    assert places == [(method, bits) for method in ("itq", "greedyhash", "sdc", "default") for bits in (16, 32)]
    by_place = dict(zip(places, found["rows"], strict=True))
    assert [by_place["itq", bits]["published"] for bits in (16, 32)] == [46.8, 51.3]
    assert by_place["sdc", 16]["published"] is by_place["sdc", 16]["difference"] is None
    for row in found["rows"]:
        assert 0 < row["ours"] <= 100
        if row["published"] is not None:
            assert row["difference"] == pytest.approx(row["ours"] - row["published"])
    store = FeatureStore(out / "cifar10-test_resnet.h5")
    assert len(store.views) == 1  # for the methods of two views, whichever are chosen
    assert len(store) == 120
    assert not found["comparable"]
    assert "--limit 120" in found["departures"][0]
    assert any("random weights" in one for one in found["departures"])
    assert found["settings"]["sdc"] == {"method": "sdc", "preset": "paper-category"}
    assert found["conventions"]["denominator"] == "relevant items in the top R"
    assert found["protocol"] == {"name": "category", "at": 1000}
    assert "cifar10, vgg16. mAP@1000 in percent" in (out / "results.md").read_text()


def test_the_table_and_the_csv_say_what_json_says(made: tuple[Path, tuple[Any, ...], dict[str, Any]]) -> None:
    out, command, found = made
    text = printed(*command)
    assert (out / "results.md").read_text() in text
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["method", "bits", "ours", "published", "difference"]
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(lines) - 2 == len(rows) == len(found["rows"]) == 8
    for line, row, one in zip(lines[2:], rows, found["rows"], strict=True):
        published = "unknown" if one["published"] is None else f"{one['published']:.1f}"
        difference = "—" if one["difference"] is None else f"{one['difference']:+.1f}"
        assert line == [one["label"], str(one["bits"]), f"{one['ours']:.1f}", published, difference]
        assert float(row["ours"]) == one["ours"]
        assert row["published"] == ("" if one["published"] is None else str(one["published"]))
    assert ["sdc (default preset)", "16"] in [line[:2] for line in lines]
    assert "Not comparable with the published figures: --limit 120" in text
    assert "unknown" in text


def test_a_cell_is_what_the_commands_say(made: tuple[Path, tuple[Any, ...], dict[str, Any]], tmp_path: Path) -> None:
    out, _, found = made
    features, model, index = out / "cifar10-test_resnet.h5", tmp_path / "model.safetensors", tmp_path / "db.bin"
    sdc(
        "train", "--features", features, "--method", "greedyhash", "--bits", 32, "--epochs", 100, "--batch-size", 64,
        "--lr", 1e-4, "--decay-at", 80, "--weight-decay", 5e-4, "--device", "cpu", "--out", model,
    )  # fmt: skip
    sdc("encode", "--features", features, "--model", model, "--out", index)
    expected = sdc("evaluate", "--index", index)
    (row,) = [row for row in found["rows"] if (row["method"], row["bits"]) == ("greedyhash", 32)]
    assert row["ours"] == pytest.approx(100 * expected["map"], abs=2)  # threads may add up in another order
    assert expected["conventions"] == found["conventions"]


def test_what_is_there_is_kept_and_only_the_rest_is_computed(
    made: tuple[Path, tuple[Any, ...], dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, command, found = made
    out = tmp_path / "stopped"
    shutil.copytree(done, out)
    cells = sorted((out / "cells").glob("*.json"))
    lost = next(cell for cell in cells if cell.name.startswith("itq-16"))
    # As a run that was killed leaves it: a cell under way, and nothing written yet of what is made of them all.
    lost.unlink()
    (out / "cells" / f".{lost.stem}").mkdir()
    for name in ("results.csv", "results.md", "results.json"):
        (out / name).unlink()
    before = files(out)
    again = (*command[:-1], out)
    planned = sdc(*again, "--dry-run")
    assert [step["state"] for step in planned["steps"]] == ["there", "7 of 8 cells are there"]
    assert (planned["steps"][1]["left"], planned["seconds"]) == (1, 0)
    assert files(out) == before
    with caplog.at_level("INFO", logger="sdc"):
        resumed = sdc(*again)
    assert "7 cells are there and kept, 1 are left to compute" in caplog.text
    after = files(out)
    assert {name for name in after if before.get(name) != after[name]} == {
        f"cells/{lost.name}", "results.csv", "results.md", "results.json", "settings.json",
    }  # fmt: skip
    assert [row["ours"] for row in resumed["rows"]] == [row["ours"] for row in found["rows"]]
    with caplog.at_level("INFO", logger="sdc"):
        sdc(*again)
    assert "nothing to do" in caplog.text
    assert files(out) == after
    with pytest.raises(UsageError, match=r"methods.*--overwrite"):
        sdc(*again[:-4], "--methods", "itq", "--out", out)


def test_cells_of_another_version_are_named(
    made: tuple[Path, tuple[Any, ...], dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, command, _ = made
    out = tmp_path / "older"
    shutil.copytree(done, out)
    for cell in list((out / "cells").glob("itq-*.json")):
        cell.write_text(json.dumps({**json.loads(cell.read_text()), "version": "0.0.9"}))
    sdc(*command[:-1], out)
    assert "2 of these cells were computed by sdc 0.0.9" in caplog.text


def train_set(path: Path, dimension: int) -> Path:
    """Features that stand for GLDv2's, of clusters."""
    random = np.random.default_rng(0)
    kind = random.integers(12, size=400)
    rows = random.standard_normal((12, dimension))[kind] + 0.4 * random.standard_normal((400, dimension))
    listing = Listing([str(row) for row in range(400)], {"train": np.arange(400)})
    return write_features(path, listing, {"source": "import"}, dimension, np.float32, [rows.astype(np.float32)])


def test_a_landmark_table_has_its_three_difficulties(landmarks: Any, tmp_path: Path) -> None:
    root = landmarks("roxford5k").root
    train, out = tmp_path / "gldv2.h5", tmp_path / "roxf"
    train_set(train, 96)
    found = sdc(
        "reproduce", "roxf", "--root", root, "--train-features", train, *SMALL, "--bits", 32,
        "--methods", "itq,sdc", "--seeds", 2, "--out", out,
    )  # fmt: skip
    places = [(row["method"], row["score"]) for row in found["rows"]]
    levels = ("map_easy", "map_medium", "map_hard")
    assert places == [(method, level) for method in ("itq", "sdc") for level in levels]
    assert all(0 < row["ours"] <= 100 and row["seeds"] == 2 and row["published"] is None for row in found["rows"])
    cells = [json.loads(path.read_text()) for path in (out / "cells").glob("itq-*.json")]
    hard = np.mean([cell["evaluate"]["hard"]["map"] for cell in cells])
    assert found["rows"][2]["ours"] == pytest.approx(100 * hard)
    assert found["trained_on"] == "gldv2"
    assert any(one.startswith("400 train images, the paper has 1200000") for one in found["departures"])
    assert "trapezoids" in found["conventions"]["denominator"]
    text = (out / "results.md").read_text()
    assert "| method | bits | difficulty | ours | published | difference |" in text
    assert text.count("| unknown | — |") == 6
    assert "heads trained on gldv2" in text


def test_ablate_shows_the_difficulties_too(tmp_path: Path) -> None:
    from sdc.ablate import AblateSettings, ablate
    from sdc.experiments import read_csv
    from sdc.extract.store import Ragged

    random = np.random.default_rng(1)
    truth = {
        level: Ragged.of([np.array([start + 5 * q, start + 5 * q + 1]) for q in range(4)])
        for level, start in (("easy", 4), ("hard", 40), ("junk", 80))
    }
    listing = Listing(
        [str(row) for row in range(124)], {"query": np.arange(4), "database": np.arange(4, 124)}, groundtruth=truth
    )
    provenance = {"source": "import", "protocol": {"name": "revisited"}}
    rows = random.standard_normal((124, 24)).astype(np.float32)
    store = write_features(tmp_path / "feats.h5", listing, provenance, 24, np.float32, [rows])
    settings = AblateSettings(
        features=(store,), method="lsh", bits=(16,), seeds=1, fixed=("train_on=database",), jobs=1, out=tmp_path / "a"
    )
    (row,) = read_csv(ablate(settings) / "results.csv")
    assert all(0 < row[f"map_{level}"] < 1 for level in ("easy", "medium", "hard"))
    assert row["map"] is None
    table = (tmp_path / "a" / "results.md").read_text()
    assert "| bits | mAP easy | mAP medium | mAP hard |" in table
    assert f"| float features, cosine | {row['map_easy_float']:.3f} |" in table


def test_a_dry_run_names_sizes_and_writes_nothing(cifar: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("reproduce", "cifar10", "--root", cifar, *SMALL, "--methods", "itq,sdc", "--dry-run")
    found = sdc(*command)
    features, grid = found["steps"]
    pool = 1797  # images of the replica
    assert (features["state"], features["images"], features["views"]) == ("to do", pool, 2)
    assert features["bytes"] == pool * features["dimension"] * 2 * 2
    assert features["seconds"] == pytest.approx(pool * 2 / features["images_per_second"])
    coded = features["splits"]["query"] + features["splits"]["database"]
    assert (grid["cells"], grid["left"], grid["index_bytes"]) == (6, 6, coded * 64 // 8)
    assert grid["model_bytes"] == 4 * 4096 * (features["dimension"] + 64)  # the paper's hidden layer
    assert grid["untimed"] == ["itq"]
    assert grid["seconds"] > 0
    assert found["missing"] == []
    assert found["seconds"] == pytest.approx(features["seconds"] + grid["seconds"])
    text = printed(*command, "--limit", 300)
    assert "300 images" in text
    assert "predicted" in text
    assert "free" in text
    assert os.listdir(tmp_path) == []


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDC_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    command = ("reproduce", "cifar10", "--root", "empty", *SMALL, "--methods", "itq")
    found = sdc(*command, "--dry-run")
    assert (found["steps"][0]["state"], found["steps"][0]["images"]) == ("missing", 60000)
    assert "empty/cifar-10-batches-py/data_batch_1: it comes from cifar-10-python.tar.gz" in found["missing"][0]
    assert os.listdir(tmp_path) == ["empty"]
    with pytest.raises(SdcError, match=r"no empty/cifar-10-batches-py/data_batch_1: it comes from") as error:
        sdc(*command)
    assert error.value.exit_code == 1
    planned = sdc("reproduce", "roxf", "--features", "none.h5", *SMALL, "--methods", "itq", "--dry-run")
    assert "no features file at none.h5" in planned["missing"][0]
    assert "--data gldv2 needs --train-root" in planned["missing"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar01",), "unknown table 'cifar01': did you mean 'cifar10'"),
        (("cifar10", "--methods", "itqq"), "unknown method of the table cifar10 'itqq': did you mean 'itq'"),
        (("cifar10", "--bits", "12"), "bits = 12"),
        (("cifar10", "--bits", "16,16"), "expected lengths that differ"),
        (("cifar10", "--seeds", "0"), "--seeds 0"),
        (("cifar10", "--limit", "0"), "--limit 0"),
        (("cifar10", "--limit", "9", "--features", "feats.h5"), "--limit is of an extraction"),
        (("cifar10", "--root", ".", "--features", "feats.h5"), "both named"),
        (("cifar10", "--train-root", "."), "trains on cifar10 itself"),
        (("gldv2",), "import them .* name them with --features, or name another --backbone"),
        (("rparis", "--features", "feats.h5"), "of gldv2.* name them with --train-features"),
        (("cifar10", "--backbone", "resnet5O", "--dry-run"), "unknown backbone 'resnet5O'"),
    ],
)  # fmt: skip
def test_a_request_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: Any, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as error:
        sdc("reproduce", *arguments)
    assert error.value.exit_code == 2
    assert os.listdir(tmp_path) == []


def test_features_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    train = train_set(tmp_path / "gldv2.h5", 16)
    with pytest.raises(SdcError, match=r"gldv2\.h5 has no rows in its query split: make features of cifar10"):
        sdc("reproduce", "cifar10", "--features", train, "--out", tmp_path / "out")


# Typed anew from the paper's figures, apart from the tables that are tested.
@pytest.mark.parametrize(
    ("table", "method", "bits", "value"),
    [
        ("cifar10", "itq", 16, 46.8), ("cifar10", "greedyhash", 32, 51.9), ("cifar10", "tbh", 64, 50.7),
        ("cifar10", "bihalf", 16, 54.7), ("cifar10", "cibhash", 64, 61.2), ("cifar10", "sdc-contrastive", 64, 66.3),
        ("cifar10", "sdc", 64, 63.0), ("cifar10", "lsh", 64, None), ("cifar10", "default", 64, None),
        ("cifar10-vit", "sdc-contrastive", 64, 89.0), ("imagenet100", "sdc", 64, 80.4), ("gldv2", "sdc", 512, 12.1),
        ("gldv2", "itq", 512, None), ("rparis", "sdc", 512, None), ("nuswide", "sdc-contrastive", 64, None),
        ("calibration-cifar10", "beta-0.2", 64, 19.3), ("calibration-imagenet100", "beta-7", 64, 81.3),
        ("calibration-gldv2", "gaussian", 512, 11.5), ("contrastive-imagenet100", "sdc-contrastive", 64, 80.6),
    ],
)  # fmt: skip
def test_published_figures(table: str, method: str, bits: int, value: float | None) -> None:
    chosen = TABLES[table]
    assert chosen.published.get((method, bits)) == value
    measured = {"method": method, "bits": bits, "refused": None, **dict.fromkeys(chosen.scores, 0.5)}
    row = report.compared(chosen, [measured])[0]
    assert (row["ours"], row["published"]) == (50, value)
    assert row["difference"] == (None if value is None else pytest.approx(50 - value))


def test_every_table_can_be_asked_for() -> None:
    listed = {table["name"]: table for table in sdc("reproduce")["tables"]}
    assert [*listed] == [*TABLES]
    text = printed("reproduce")
    for name, table in TABLES.items():
        given = {"features": Path("a.h5"), **({"train_features": Path("b.h5")} if table.trained_on else {})}
        job = prepare(ReproduceSettings(table=name, **given))
        assert job.bits == table.bits
        assert set(table.published) <= {(entry, bits) for entry in job.entries for bits in job.bits}
        assert f"{name}: {table.about} ({table.place})" in text
        assert listed[name]["published"] == len(table.published)
        assert listed[name]["needs"]


def test_the_schedules_are_the_supplements() -> None:
    job = prepare(ReproduceSettings(table="cifar10", features=Path("a.h5")))
    from sdc.train.run import TrainSettings

    for name in ("ssdh", "greedyhash", "tbh", "bihalf", "cibhash", "sdc", "sdc-contrastive"):
        recipe = TrainSettings(**job.entries[name].settings).recipe()
        schedule = (recipe.epochs, recipe.batch_size, recipe.lr, recipe.decay_at, recipe.weight_decay, recipe.patience)
        assert schedule == (100, 64, 1e-4, 80, 5e-4, 0), name
    for name in ("greedyhash", "bihalf", "sdc"):
        recipe = TrainSettings(**TABLES["gldv2"].entries[name].settings).recipe()
        schedule = (recipe.epochs, recipe.batch_size, recipe.lr, recipe.decay_at, recipe.weight_decay, recipe.head)
        assert schedule == (20, 256, 1e-4, 10, 5e-4, "linear"), name
    assert TrainSettings(**TABLES["gldv2"].entries["sdc"].settings).recipe().quantization_weight == 0.01
