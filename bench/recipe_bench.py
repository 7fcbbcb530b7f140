"""What each part of the default recipe is worth, judged on training rows that were held out.

    python bench/recipe_bench.py [--features feats.h5] [--bits 64,128] [--folds 4] [SETTINGS ...]

This is how the preset `default` was chosen: never on queries. In each fold 1000 training rows are held out and the
others trained on. Each held-out row then searches the other held-out ones: AP@15 and AP@100 of its label, of about 100
such rows (R = 1/7 of a class is that of mAP@1000 among 69,000 items; the whole class is more than that), and recall@10
of its neighbours by the features' cosine; all expected over ties. Mean ± sd over folds.

SETTINGS are fields of a recipe, or the constants of train/space.py and train/methods/sdc.py, joined by semicolons: the
default list is that of bench/results/recipe.md. `preset=NAME` starts from another preset.
"""

from __future__ import annotations

import ast
import contextlib
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np

from sdc import __version__
from sdc.extract.store import FeatureStore
from sdc.retrieve.evaluate import average_precision
from sdc.retrieve.features import Nearest, expected_overlap
from sdc.train import Model, feature_space, make_recipe
from sdc.train.loop import fit
from sdc.train.methods import sdc as method

HELD_OUT = 1000
VARIANTS = (
    "", "preset=paper-code", "method=itq", "space=raw;init=random;lr=2e-3;head=mlp", "locality=0.0;lr=4e-2",
    "locality=0.5;lr=4e-2", "lr=1e-2", "lr=2e-2", "lr=8e-2", "init=random", "head=mlp;lr=2e-3", "AXES=512",
    "NEAREST=20", "BANK=1024", "calibration=beta:8,8", "calibration=beta:32,32", "quantization_weight=0.3",
    "quantization_weight=3.0", "batch_size=128", "batch_size=512;epochs=20", "epochs=20", "epochs=5", "pairs=all",
    "pairs=halves", "loss=l2",
)  # fmt: skip


@contextlib.contextmanager
def recipe_of(spec: str, bits: int, seed: int) -> Iterator[Any]:
    """The recipe of a variant, with the constants it names in place."""
    chosen: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for part in filter(None, spec.split(";")):
            name, _, text = part.partition("=")
            value: Any = text
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(text)
            if name.isupper():
                for module in [module for module in (feature_space, method) if hasattr(module, name)]:
                    stack.enter_context(mock.patch.object(module, name, value))
            else:
                chosen[name] = value
        yield make_recipe(**{"bits": bits, "seed": seed, **chosen})


def scores(codes: np.ndarray, features: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """AP@15, AP@100 and recall@10 of every row among the others."""
    signs = np.where(codes, 1, -1).astype(np.float32)
    distances = ((codes.shape[1] - signs @ signs.T) / 2).round().astype(np.int64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarities = unit @ unit.T
    found = []
    for row in range(len(codes)):
        others = np.arange(len(codes)) != row
        d, relevant = distances[row, others], labels[others] == labels[row]
        order = np.argsort(-similarities[row, others])[:10]
        near = Nearest(order, np.arange(10), np.ones(10, np.int64))
        overlap = expected_overlap(near, d, np.bincount(d), 10)
        found.append((average_precision(d, relevant, at=15), average_precision(d, relevant, at=100), overlap))
    ap15, ap100, recall = np.mean(found, axis=0)
    return float(ap15), float(ap100), float(recall)


def trial(features: np.ndarray, labels: np.ndarray, spec: str, bits: int, fold: int) -> tuple[float, ...]:
    """The scores of one fold, and the seconds that training took."""
    order = np.random.default_rng(100 + fold).permutation(len(features))
    held, rows = order[:HELD_OUT], np.sort(order[HELD_OUT:])
    with recipe_of(spec, bits, fold) as recipe:
        started = time.perf_counter()
        tensors, _ = fit(features, rows, recipe)
        seconds = time.perf_counter() - started
    codes = Model(tensors, {}).outputs(features[held]) > 0
    return (*scores(codes, features[held], labels[held]), seconds)


@click.command(help=__doc__)
@click.argument("settings", nargs=-1)
@click.option("--features", type=click.Path(path_type=Path), default=Path("feats.h5"), show_default=True)
@click.option("--bits", default="64,128", show_default=True)
@click.option("--folds", default=4, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(settings: tuple[str, ...], features: Path, bits: str, folds: int, out: Path | None) -> None:
    store = FeatureStore(features)
    rows = store.splits["train"]
    if store.labels is None or store.labels.ndim > 1 or len(rows) <= 2 * HELD_OUT:
        raise click.UsageError(f"{features}: it takes single labels and more than {2 * HELD_OUT} training rows")
    x, labels = store.take(rows).astype(np.float32), store.labels[rows]
    lines = [
        f"{len(rows) - HELD_OUT} × {store.dimension} rows trained on, {HELD_OUT} held out, {folds} folds; "
        f"sdc {__version__}, {platform.machine()}",
        "",
        "| changed from `default` | bits | AP@15 | AP@100 | recall@10 | training, s |",
        "|---|---|---|---|---|---|",
    ]
    click.echo("\n".join(lines))
    for spec in settings or VARIANTS:
        for length in (int(b) for b in bits.split(",")):
            columns = list(zip(*(trial(x, labels, spec, length, fold) for fold in range(folds)), strict=True))
            cells = [f"{statistics.mean(c):.4f} ± {statistics.stdev(c) if folds > 1 else 0:.4f}" for c in columns[:3]]
            name = spec.replace(";", ", ") or "nothing"
            line = f"| {name} | {length} | {' | '.join(cells)} | {statistics.median(columns[3]):.1f} |"
            lines.append(line)
            click.echo(line)
    if out is not None:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
