"""`sdc ablate`: the grid, its tables and figures, what is kept, and what is refused."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import warm

from sdc.ablate import AblateSettings
from sdc.ablate import ablate as run
from sdc.ablate.figures import write_figures
from sdc.errors import SdcError, UsageError
from sdc.experiments import OVER, make_cells, parse_fixed, parse_over, read_csv
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.train.presets import PRESETS

ROWS, QUERIES, DIMENSION = 300, 30, 24
BRISK = ("init=random", "batch_size=32", "lr=0.01")  # settings under which a few steps make a difference


def write_store(path: Path, *, labels: bool = True, queries: int = QUERIES, seed: int = 0) -> Path:
    """Features around five centres."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(5, size=ROWS).astype(np.int32)
    features = rng.standard_normal((5, DIMENSION))[kind] * 0.6 + rng.standard_normal((ROWS, DIMENSION))
    rest = np.arange(QUERIES, ROWS)
    splits = {"query": np.arange(queries), "database": rest, "train": rest}
    listing = Listing([str(row) for row in range(ROWS)], splits, labels=kind if labels else None)
    provenance = {"source": "import", "seed": seed, "protocol": {"name": "category", "at": 50}}
    return write_features(path, listing, provenance, DIMENSION, np.float32, [features.astype(np.float32)])


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> AblateSettings:
    """A finished grid: sdc at two alphas and itq, which has none and cannot make 32 bits of 24 dimensions."""
    folder = tmp_path_factory.mktemp("grid")
    settings = AblateSettings(
        features=(write_store(folder / "feats.h5"),), over=("method=itq,sdc", "alpha=0.2,5"), bits=(16, 32), seeds=2,
        epochs=3, fixed=BRISK, jobs=1, out=folder / "ablation",
    )  # fmt: skip
    assert run(settings) == settings.out
    return settings


def cells_of(out: Path) -> dict[str, int]:
    """When each finished cell was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}


def test_the_csv_has_a_row_for_each_cell_of_the_product(grid):
    with open(grid.out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    places = [tuple(row[name] for name in ("method", "alpha", "bits", "seed")) for row in rows]
    expected = {
        (method, alpha, bits, seed)
        for method, alpha in (("itq", ""), ("sdc", "0.2"), ("sdc", "5.0"))
        for bits in ("16", "32")
        for seed in "01"
    }
    assert len(places) == len(set(places)) == 12
    assert set(places) == expected
    assert {row["features"] for row in rows} == {str(grid.features[0])}
    for row in read_csv(grid.out / "results.csv"):
        if row["refused"] is None:
            names = ("map", "recall@1", "recall@10", "recall@100", "overlap", "map_float", "overlap_float")
            assert all(0 < row[name] <= 1 for name in names), row
            assert row["seconds"] > 0
            assert row["at"] == 50
    assert len({row["map"] for row in rows if row["method"] == "sdc"}) == 8  # alpha, bits and seed reach the training


def test_a_cell_is_what_the_commands_say(grid, tmp_path):
    from sdc.retrieve import encode
    from sdc.retrieve.diagnose import run as diagnose
    from sdc.retrieve.evaluate import run as evaluate
    from sdc.train import run as train

    chosen = {"calibration": "beta:0.2,0.2", "bits": 32, "seed": 1, "epochs": 3}
    brisk = {"init": "random", "batch_size": 32, "lr": 0.01}
    (features,) = grid.features
    model, index = tmp_path / "model.safetensors", tmp_path / "db.bin"
    train.run(train.TrainSettings(features=features, out=model, **chosen, **brisk))
    encode.run(encode.EncodeSettings(features=features, model=model, out=index))
    found = evaluate.evaluate(evaluate.EvaluateSettings(index=index, neighbors="float"))
    overlap = diagnose.run(diagnose.DiagnoseSettings(index=index))["overlap"]
    rows = [
        row for row in read_csv(grid.out / "results.csv") if (row["alpha"], row["bits"], row["seed"]) == (0.2, 32, 1)
    ]
    assert len(rows) == 1
    np.testing.assert_allclose(rows[0]["map"], found["map"], atol=0.02)  # threads may add up in another order
    np.testing.assert_allclose(rows[0]["overlap"], overlap["codes"], atol=0.02)
    np.testing.assert_allclose(rows[0]["overlap_float"], overlap["features"], atol=1e-6)


def test_the_table_is_mean_and_sd_of_the_csv(grid):
    lines = [
        line.strip("| ").split(" | ") for line in (grid.out / "results.md").read_text().splitlines() if "|" in line
    ]
    titles = {name: place for place, name in enumerate(lines[0])}
    rows = [row for row in read_csv(grid.out / "results.csv") if (row["alpha"], row["bits"]) == (5, 16)]
    (line,) = [line for line in lines if line[:3] == ["sdc", "5", "16"]]
    for column, title in (("map", "mAP@50"), ("recall@10", "recall@10"), ("overlap", "overlap")):
        values = np.array([row[column] for row in rows])
        assert line[titles[title]] == f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
    (exact,) = [line for line in lines if line[0] == "float features, cosine"]
    assert exact[titles["mAP@50"]] == f"{rows[0]['map_float']:.3f}"
    assert len(lines) == 2 + 6 + 1


def test_settings_that_fail_are_a_dash_with_the_reason(grid):
    rows = read_csv(grid.out / "results.csv")
    refused = [row for row in rows if row["refused"]]
    assert [(row["method"], row["bits"], row["seed"]) for row in refused] == [("itq", 32, 0), ("itq", 32, 1)]
    assert all(row["map"] is None and row["seconds"] is None for row in refused)
    table = (grid.out / "results.md").read_text()
    assert re.search(r"\| itq \|  \| 32 \| — \| — \|", table)
    assert f"— itq, 32 bits, seeds 0, 1: {refused[0]['refused']}" in table


def test_the_figures_are_pictures(grid):
    from PIL import Image

    for name in ("histograms.png", "bits.png", "sensitivity.png", "overlap.png"):
        with Image.open(grid.out / name) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert min(pixels.shape[:2]) > 300, name
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50, name


@pytest.mark.slow
def test_two_jobs_give_what_one_gives(grid):
    again = replace(grid, jobs=2, out=grid.out.with_name("two"))
    run(again)
    one, two = (read_csv(out / "results.csv") for out in (grid.out, again.out))
    for row in (*one, *two):
        del row["seconds"]
    assert one == two


KILLED = """
import multiprocessing, os, signal
from sdc.cli import main
from sdc.progress import Progress

def killed(*arguments, done=[]):
    done.append(arguments)
    if len(done) == 2:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

Progress.advance = killed
if __name__ == "__main__":
    main()
"""


def test_a_killed_run_goes_on_and_keeps_what_was_finished(tmp_path, command):
    write_store(tmp_path / "feats.h5")
    arguments = ["ablate", "--over", "batch=8,16", "--seeds", "3", "--epochs", "20", "--jobs", "1"]
    killed = warm.run(["-c", KILLED, *arguments], cwd=tmp_path, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    out = tmp_path / "ablation"
    jobs = killed.stdout.split()
    assert jobs
    waited(lambda: not any(runs(job) for job in jobs))
    before = cells_of(out)
    assert 2 <= len(before) < 6
    assert not (out / "results.csv").exists()
    said = command(*arguments, "--json", env={**os.environ, warm.FORK: "1"})
    assert f"{len(before)} cells are there and kept, {6 - len(before)} are left" in said.stderr
    after = cells_of(out)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    found = json.loads(said.stdout)
    assert (found["out"], found["cells"], len(found["rows"])) == ("ablation", 6, 6)
    assert not [path for path in (out / "cells").iterdir() if path.is_dir()]


def waited(done: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_finished_run_is_kept_and_other_settings_are_refused(grid, caplog):
    before = {path: path.stat().st_mtime_ns for path in grid.out.rglob("*")}
    with caplog.at_level("INFO", logger="sdc"):
        run(grid)
    assert "nothing to do" in caplog.text
    with pytest.raises(UsageError, match=r"seeds: found 2, wanted 3.*--overwrite"):
        run(replace(grid, seeds=3))
    with pytest.raises(UsageError, match=r"over\.alpha"):
        run(replace(grid, over=("method=itq,sdc", "alpha=0.2,7")))
    with pytest.raises(UsageError, match=r"train\.epochs: found 3, wanted 4"):
        run(replace(grid, epochs=4))
    assert {path: path.stat().st_mtime_ns for path in grid.out.rglob("*")} == before


def test_overwrite_keeps_the_cells_that_belong_and_drops_others(grid):
    out = grid.out.with_name("narrower")
    subprocess.run(["cp", "-a", grid.out, out], check=True)
    before = cells_of(out)
    run(replace(grid, over=("method=sdc", "alpha=5"), seeds=1, bits=(16,), out=out, overwrite=True))
    after = cells_of(out)
    assert len(after) == 1
    assert after.items() <= before.items()
    assert len(read_csv(out / "results.csv")) == 1
    assert not (out / "bits.png").exists()  # of the former settings


def test_without_labels_the_recall_of_neighbours_is_compared(tmp_path):
    store = write_store(tmp_path / "feats.h5", labels=False)
    out = run(AblateSettings(features=(store,), bits=(16,), seeds=1, method="lsh", out=tmp_path / "ablation"))
    (row,) = read_csv(out / "results.csv")
    assert (row["map"], row["overlap"]) == (None, None)
    assert 0 < row["recall@10"] < 1
    assert "mAP" not in (out / "results.md").read_text()


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (("alhpa",), "did you mean 'alpha'"),
        (("alpha=1", "alpha=2"), "twice"),
        (("alpha=1,1.0",), "twice"),
        (("alpha=x",), "'x': expected a number"),
        (("alpha=-1",), "must be positive"),
        (("alpha=",), "empty"),
        (("batch=32.5",), "expected a whole number"),
        (("batch=1",), "batch_size = 1"),
        (("norm=maybe",), "expected true or false"),
        (("lr",), "no default values"),
        (("calibration=gausian:0.3",), "did you mean 'gaussian'"),
        (("calibration", "alpha"), "decide the same"),
        (("batch=32", "batch_size=64"), "decide the same"),
        (("pairs=rows,hlaves",), "did you mean 'halves'"),
        (("method=sdc,itqq",), "did you mean 'itq'"),
        (("bits=16,32",), "unknown setting to vary 'bits'"),
        (("epochs=3",), "epochs is fixed, and varied"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_before_anything_is_made(tmp_path, over, message):
    store = write_store(tmp_path / "feats.h5")
    with pytest.raises(UsageError, match=message):
        run(AblateSettings(features=(store,), over=over, epochs=2, out=tmp_path / "ablation"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["feats.h5"]


def test_a_grid_that_cannot_be_run_is_refused(tmp_path):
    store, out = write_store(tmp_path / "feats.h5"), tmp_path / "ablation"
    settings = AblateSettings(features=(store,), out=out)
    for name, value in (("seeds", 0), ("jobs", 0), ("bits", (16, 16)), ("bits", (12,)), ("features", (store, store))):
        with pytest.raises(UsageError):
            run(replace(settings, **{name: value}))
    for fixed in (("lr=x",), ("nothing=1",), ("lr=1", "lr=2"), ("lr",)):
        with pytest.raises(UsageError, match=r"lr|nothing"):
            run(replace(settings, fixed=fixed))
    with pytest.raises(SdcError, match="no feature"):
        run(replace(settings, features=(tmp_path / "none.h5",)))
    with pytest.raises(SdcError, match="query split"):
        run(replace(settings, features=(write_store(tmp_path / "no.h5", queries=0),)))
    assert not out.exists()
    with pytest.raises(UsageError, match="other files"):
        run(replace(settings, out=tmp_path))
    with pytest.raises(UsageError, match="is a file"):
        run(replace(settings, out=store))
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another sdc ablate"):
        run(settings)
    os.close(descriptor)


def calibrations(store: Path, *over: str, fixed: tuple[str, ...] = ()) -> list[str | None]:
    cells = make_cells({store: FeatureStore(store)}, parse_over(over), parse_fixed(fixed), [64], 1)
    return [cell.settings.calibration for cell in cells]


def test_what_alpha_and_beta_stand_for(tmp_path):
    store = write_store(tmp_path / "feats.h5")
    assert calibrations(store, "alpha=0.2,5") == ["beta:0.2,0.2", "beta:5,5"]
    assert calibrations(store, "alpha=1,2", "beta=3,4") == ["beta:1,3", "beta:1,4", "beta:2,3", "beta:2,4"]
    assert calibrations(store, "beta=3,4", fixed=("calibration=beta:7,7",)) == ["beta:7,3", "beta:7,4"]
    with pytest.raises(UsageError, match="--over beta alone"):
        calibrations(store, "beta=3", fixed=("calibration=uniform",))
    # Not under methods that calibrate nothing.
    assert calibrations(store, "method=itq,sdc,greedyhash", "alpha=1,2") == [None, "beta:1,1", "beta:2,2", None]


def test_default_values_are_settings_that_training_takes(tmp_path):
    store = write_store(tmp_path / "feats.h5")
    found = {name: parse_over([name])[name] for name in OVER}
    assert found["alpha"] == found["beta"] == [0.2, 0.5, 0.7, 1, 2, 3, 5, 7, 10, 16]
    assert found["pairs"] == ["rows", "halves", "all"]
    assert found["batch"] == [32, 64, 128, 256, 512, 1024]
    assert found["lambda_q"] == [0, 0.01, 0.1, 0.3, 1, 3]
    assert {str(value).partition(":")[0] for value in found["calibration"]} >= {
        "beta",
        "gaussian",
        "linear",
        "student-t",
    }
    for name in ("calibration", "pairs", "batch", "lambda_q", "method"):
        cells = make_cells({store: FeatureStore(store)}, parse_over([name]), {}, [16, 64], 1)
        assert len({cell.name for cell in cells}) == 2 * len(found[name]), name
    cells = make_cells({store: FeatureStore(store)}, parse_over([f"preset={','.join(PRESETS)}"]), {}, [64], 1)
    assert [cell.settings.recipe().pairs for cell in cells][:2] == ["rows", "halves"]


@pytest.mark.parametrize("varied", [["alpha"], ["alpha", "beta"], ["method"], ["method", "alpha", "beta"]])
def test_the_figure_of_sensitivity_shows_the_scores(tmp_path, varied):
    def rows(best: float) -> list[dict]:
        values = {"alpha": [0.2, 5.0], "beta": [1.0, 2.0], "method": ["itq", "sdc"]}
        made = [{}]
        for name in varied:
            made = [{**row, name: value} for row in made for value in values[name]]
        measured = {"bits": 64, "at": 50, "overlap": None, "map_float": 0.9, "features": "feats.h5"}
        return [
            {**row, **measured, "seed": seed, "map": best if n == 0 else 0.5}
            for n, row in enumerate(made)
            for seed in (0, 1)
        ]

    def drawn(name: str, best: float) -> bytes:
        (tmp_path / name).mkdir()
        assert write_figures(tmp_path / name, rows(best), varied) == [tmp_path / name / "sensitivity.png"]
        return (tmp_path / name / "sensitivity.png").read_bytes()

    assert drawn("low", 0.6) != drawn("high", 0.7)
    nothing = [{**row, "map": None, "recall@10": None, "recall@1": None} for row in rows(0)]
    assert write_figures(tmp_path, nothing, varied) == []
