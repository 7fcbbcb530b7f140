"""How long evaluation takes, beside a plain float argsort mAP on the same codes, by turns in one process.

    python bench/evaluate_bench.py [--queries 1000] [--database 69000] [--bits 64 ...] [--repeats 3] [--json FILE]

`evaluate` is every label-based score of `sdc evaluate` on a db.bin; `neighbors` adds neighbour recall and the
features' own mAP (`--neighbors float`). Plain is the usual script: distances as a float matrix product of ±1 codes,
one argsort a query, AP@R of one arbitrary order of ties. Plain's scores, and sampled orders of ties, are compared with
ours first. A median above 20 s is an exit status of 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdc.extract.store import Listing, write_features
from sdc.retrieve import EncodeSettings, unpack
from sdc.retrieve import encode_database as run
from sdc.retrieve.evaluate import EvaluateSettings, average_precision, evaluate
from sdc.retrieve.index import Index, faiss_module
from sdc.train import Model

BAR = 20.0  # seconds
AT = 1000
CLASSES, DIMENSION = 10, 1280  # the demo's features are as wide


def make(folder: Path, queries: int, database: int, bits: int) -> Path:
    """db.bin of clustered features under random projections; queries and database are disjoint."""
    rng = np.random.default_rng(0)
    count = queries + database
    labels = rng.integers(0, CLASSES, count)
    centres = rng.standard_normal((CLASSES, DIMENSION)) * 0.5
    features = (centres[labels] + rng.standard_normal((count, DIMENSION))).astype(np.float32)
    splits = {"query": np.arange(queries), "database": np.arange(queries, count)}
    listing = Listing([str(row) for row in range(count)], splits, labels)
    store = write_features(folder / "feats.h5", listing, {}, DIMENSION, np.float32, [features])
    projection = rng.standard_normal((bits, DIMENSION))
    model = Model({"output.weight": projection, "output.bias": np.zeros(bits)}, {"method": "lsh"})
    return run(EncodeSettings(store, model.save(folder / "model.safetensors"), out=folder / "db.bin"))


def plain_map(index: Index) -> float:
    """mAP@R of one order of ties, as scripts have it."""
    assert index.queries is not None
    assert index.queries.labels is not None
    assert index.database.labels is not None
    ours, theirs = (unpack(part.codes).astype(np.float32) * 2 - 1 for part in (index.queries, index.database))
    total = 0.0
    for code, label in zip(ours, index.queries.labels, strict=True):
        order = np.argsort((index.bits - theirs @ code) / 2)[:AT]
        places = np.flatnonzero(index.database.labels[order] == label) + 1
        total += (np.arange(1, len(places) + 1) / places).mean() if len(places) else 0.0
    return float(total / len(ours))


def check(path: Path) -> None:
    """Raises AssertionError unless plain's mAP lies within our bounds and sampled orders average to ours."""
    scores, index = evaluate(EvaluateSettings(path, at=AT)), Index.open(path)
    assert index.queries is not None
    assert index.queries.labels is not None
    assert index.database.labels is not None
    assert scores["map_worst"] <= plain_map(index) <= scores["map_best"]
    rng = np.random.default_rng(0)
    theirs, samples = unpack(index.database.codes), []
    for _ in range(20):
        order = rng.permutation(len(index))
        codes, labels = theirs[order], index.database.labels[order]
        samples.append(
            [
                average_precision((codes != code).sum(axis=1), labels == label, at=AT, ties="row")
                for code, label in zip(unpack(index.queries.codes[:20]), index.queries.labels, strict=False)
            ]
        )
    found = [
        average_precision((theirs != code).sum(axis=1), index.database.labels == label, at=AT)
        for code, label in zip(unpack(index.queries.codes[:20]), index.queries.labels, strict=False)
    ]
    means = np.mean(samples, axis=1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(np.mean(found) - means.mean()) < 5 * error, (np.mean(found), means.mean(), error)


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(path: Path, repeats: int) -> dict[str, list[float]]:
    index = Index.open(path)
    works: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: evaluate(EvaluateSettings(path, at=AT)),
        "neighbors": lambda: evaluate(EvaluateSettings(path, at=AT, neighbors="float")),
        "plain": lambda: plain_map(index),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--database", type=int, default=69_000)
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 64, 512])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "faiss": faiss_module().__version__,
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(machine))
    print(f"{options.queries} queries x {options.database} codes, R = {AT}; seconds: median (lowest to highest)")
    records, worst = [], 0.0
    for bits in options.bits:
        with tempfile.TemporaryDirectory() as folder:
            path = make(Path(folder), options.queries, options.database, bits)
            check(path)
            seconds = measure(path, options.repeats)
        records.append({"bits": bits, "queries": options.queries, "database": options.database, "seconds": seconds})
        cells = [f"{n} {statistics.median(s):.2f} ({min(s):.2f} to {max(s):.2f})" for n, s in seconds.items()]
        print(f"{bits:4} bits: {'; '.join(cells)}", flush=True)
        worst = max(worst, *(statistics.median(seconds[name]) for name in ("evaluate", "neighbors")))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "at": AT, "runs": records}, indent=1) + "\n")
    print(f"slowest median {worst:.1f} s, bar {BAR:.0f} s: {'met' if worst <= BAR else 'MISSED'}")
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
