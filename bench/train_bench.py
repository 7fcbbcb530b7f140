"""What the training loop costs beside a bare loop of the same head's forward, loss, backward and Adam.

    python bench/train_bench.py [--rows 5000] [--dimension 1280] [--bits 64] [--repeats 5]

Both train the same head on the same float16 rows in the same order; the bare loop has its batches ready as float32
tensors. The weights must agree bit for bit before anything is printed. The two run in turn; medians.
"""

from __future__ import annotations

import platform
import statistics
import time

import click
import numpy as np
import torch

from sdc.devices import threads_by_work
from sdc.train import Recipe, make_recipe
from sdc.train.head import make_head
from sdc.train.loop import fit
from sdc.train.loop.step_work import step_work
from sdc.train.methods.sdc import SDC


def data(rows: int, dimension: int) -> np.ndarray:
    """Clustered, non-negative rows, as a backbone's pooled features are."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, dimension))[rng.integers(20, size=rows)]
    return np.maximum(centres + rng.standard_normal((rows, dimension)), 0).astype(np.float16)


def bare(features: np.ndarray, recipe: Recipe) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds of the loop, and the head it ends with."""
    head = make_head(features.shape[1], recipe.bits, recipe.hidden or features.shape[1], recipe.seed)
    method = SDC(recipe, recipe.batch_size, torch.from_numpy(features[: recipe.batch_size]).float())
    optimizer = torch.optim.Adam(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    batches = []
    for epoch in range(recipe.epochs):
        order = np.random.default_rng((recipe.seed, epoch)).permutation(np.arange(len(features)))
        batches += [
            torch.from_numpy(features[order[start : start + recipe.batch_size]]).float()
            for start in range(0, len(features) - recipe.batch_size + 1, recipe.batch_size)
        ]
    with threads_by_work(step_work(recipe.batch_size, features.shape[1], head)):  # as many as the other loop has
        started = time.perf_counter()
        for x in batches:
            loss = method.loss(x, head(x))
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
        seconds = time.perf_counter() - started
    return seconds, {name: value.numpy() for name, value in head.state_dict().items()}


def ours(features: np.ndarray, recipe: Recipe) -> tuple[float, dict[str, np.ndarray]]:
    started = time.perf_counter()
    tensors, _ = fit(features, np.arange(len(features)), recipe, device="cpu")
    return time.perf_counter() - started, tensors


@click.command(help=__doc__)
@click.option("--rows", default=5000, show_default=True)
@click.option("--dimension", default=1280, show_default=True)
@click.option("--bits", default=64, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(rows: int, dimension: int, bits: int, repeats: int) -> None:
    features = data(rows, dimension)
    machine = f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    click.echo(f"{rows} × {dimension} float16 features, {bits} bits; {machine}")
    for preset in ("default", "paper-code"):
        # From random weights on the features as they are: what `default` does before its first step is not the loop's.
        start = {"space": "raw", "init": "random", "head": "mlp", "patience": 0, "epochs": 2}
        recipe = make_recipe(preset, bits=bits, lr=1e-4, **start)
        steps = recipe.epochs * (rows // recipe.batch_size)
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(repeats):
            (fast, plain), (slow, looped) = bare(features, recipe), ours(features, recipe)
            if not all(np.array_equal(plain[name], looped[name]) for name in looped):
                raise SystemExit("the two loops end with different weights: nothing to compare")
            times["bare"].append(fast)
            times["ours"].append(slow)
        ratios = [a / b for a, b in zip(times["ours"], times["bare"], strict=True)]
        click.echo(
            f"{preset:12} {steps} steps: ours {statistics.median(times['ours']) / steps * 1e3:.2f} ms a step, "
            f"bare {statistics.median(times['bare']) / steps * 1e3:.2f}; "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
