"""What training, encoding and evaluating take beside other processes that are busy, over what they take by themselves.

    python bench/busy_bench.py [--runs 6] [--busy 2] [--only train]

Each run is a process of its own, forked once everything is loaded and before any thread has started. Its result is
checked. Beside `busy` processes that do nothing but compute, the worst of the runs is what counts: the bar is 3 times
the quiet median, the aim 1.6.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import torch._dynamo  # what an optimizer loads when it is made

import sdc
from sdc.devices import cpu_count
from sdc.errors import log
from sdc.extract import ImportSettings, import_features
from sdc.retrieve import EncodeSettings, encode_database
from sdc.retrieve.evaluate import EvaluateSettings, evaluate
from sdc.train import TrainSettings, train_head

ROWS, DIMENSION = 5000, 512
TRAIN = {  # by name, the shape of the features and the settings
    "train small": ((ROWS, 64), {"method": "sdc", "bits": 32, "epochs": 4}),
    "train kinds": ((ROWS, DIMENSION), {"goal": "kinds", "bits": 64, "epochs": 4}),
    "train neighbors": ((1500, 128), {"goal": "neighbors", "bits": 32, "steps": 30}),
    "train mlp": ((ROWS, DIMENSION), {"preset": "paper-code", "bits": 64, "epochs": 1}),
}
LOOP = "plain loop"  # of one thread, the yardstick: what a fair share of the processors costs
RUNS = (LOOP, *TRAIN, "encode", "evaluate")


def data(rows: int, dimension: int) -> np.ndarray:
    """Clustered, non-negative rows, as a backbone's pooled features are."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, dimension))[rng.integers(20, size=rows)]
    return np.maximum(centres + rng.standard_normal((rows, dimension)), 0).astype(np.float32)


def prepare(folder: Path) -> None:
    """feats.h5, model.safetensors and db.bin for the runs of `encode` and `evaluate`."""
    np.save(folder / "vectors.npy", data(30_000, DIMENSION))
    np.save(folder / "labels.npy", np.random.default_rng(0).integers(20, size=30_000))
    features, model = folder / "feats.h5", folder / "model.safetensors"
    import_features(ImportSettings(folder / "vectors.npy", labels=folder / "labels.npy", out=features))
    train_head(TrainSettings(features, method="itq", bits=64, out=model))
    encode_database(EncodeSettings(features, model, out=folder / "db.bin"))


def one(name: str, folder: Path) -> dict[str, float]:
    """Seconds of one run in this process, and of its processors; the first touch of everything is not timed."""
    sdc.Hasher(bits=8, epochs=1, batch_size=8).fit(data(64, 16))
    if name == LOOP:
        began, spent = time.perf_counter(), time.process_time()
        if sum(range(20_000_000)) != 199_999_990_000_000:
            raise SystemExit("a sum is wrong")
    elif name in TRAIN:
        shape, settings = TRAIN[name]
        features, hasher = data(*shape), sdc.Hasher(**settings)
        began, spent = time.perf_counter(), time.process_time()
        hasher.fit(features)
        if not hasher.model.metadata["training"]["steps"]:
            raise SystemExit(f"{name}: no step was made")
    else:
        out = folder / f"{os.getpid()}.bin"
        began, spent = time.perf_counter(), time.process_time()
        if name == "encode":
            encode_database(EncodeSettings(folder / "feats.h5", folder / "model.safetensors", out=out))
            if out.read_bytes() != (folder / "db.bin").read_bytes():
                raise SystemExit("encode: other codes than before")
            out.unlink()
        else:
            scores = evaluate(EvaluateSettings(folder / "db.bin", features=folder / "feats.h5", neighbors="float"))
            if not 0 < scores["map"] <= 1:
                raise SystemExit(f"evaluate: a mAP of {scores['map']}")
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - spent}


@contextmanager
def beside(busy: int) -> Iterator[None]:
    """Processes that compute meanwhile."""
    program = "import os\nabove = os.getppid()\nwhile os.getppid() == above: pass"  # ends with us, however we end
    # Sessions of their own, as other people's are: Linux shares the processors out among sessions first.
    processes = [subprocess.Popen([sys.executable, "-c", program], start_new_session=True) for _ in range(busy)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(name: str, folder: Path, runs: int) -> list[dict[str, float]]:
    return [json.loads(in_child(lambda: json.dumps(one(name, folder)))) for _ in range(runs)]


def in_child(work: Callable[[], str]) -> str:
    """What `work` returns in a process of its own. Raises SystemExit where it fails."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, work().encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading) as answer:
        told = answer.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("a run failed")
    return told


@click.command(help=__doc__)
@click.option("--runs", default=6, show_default=True, help="Of each kind beside busy processes; half as many quiet.")
@click.option("--busy", default=2, show_default=True, help="Processes beside them.")
@click.option("--only", multiple=True, type=click.Choice(RUNS), help="Only this one; may be given again.")
def main(runs: int, busy: int, only: tuple[str, ...]) -> None:
    log.setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as made:
        names = only or RUNS
        if {"encode", "evaluate"}.intersection(names):
            in_child(lambda: str(prepare(Path(made))))
        machine = f"{platform.machine()}, {cpu_count()} processors, torch {torch.__version__}"
        click.echo(f"{machine}; {busy} busy processes beside")
        click.echo(f"{'':16}  {'quiet s':>8} {'cpu s':>7}  {'beside, s':>8} {'worst':>7}  {'worst / quiet':>13}")
        for name in names:
            quiet = measure(name, Path(made), max(3, runs // 2))
            with beside(busy):
                loaded = [run["seconds"] for run in measure(name, Path(made), runs)]
            usual = statistics.median(run["seconds"] for run in quiet)
            cpu = statistics.median(run["cpu"] for run in quiet)
            click.echo(
                f"{name:16}  {usual:8.2f} {cpu:7.2f}  {statistics.median(loaded):8.2f} {max(loaded):7.2f}  "
                f"{max(loaded) / usual:12.2f}×"
            )


if __name__ == "__main__":
    main()
