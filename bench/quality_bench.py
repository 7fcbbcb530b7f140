"""Retrieval quality and training time of methods and presets, on one feature file, in one run.

    python bench/quality_bench.py --features feats.h5 --bits 16,32,64,128 --methods default,paper-code,itq,lsh

Every cell is the whole chain `sdc train`, `sdc encode`, `sdc evaluate`, with mAP expected over ties, from the last
epoch. A finished cell is kept (in --work) and not computed again. Methods in turn for each seed, so that a drift of
the machine's speed touches all alike.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path

import click
import numpy as np
from safetensors import safe_open

from sdc import Index, __version__
from sdc.retrieve import encode, evaluate
from sdc.train import run as train
from sdc.train.recipe import PRESETS


def cell(features: Path, method: str, bits: int, seed: int, work: Path) -> dict:
    """Trains, encodes and evaluates once; `method` is a preset of sdc or the name of another method."""
    kept = work / f"{method}-{bits}-{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    model, index = work / "model.safetensors", work / "db.bin"
    chosen = {"preset": method} if method in PRESETS else {"method": method}
    started = time.monotonic()
    train.run(train.TrainSettings(features=features, bits=bits, seed=seed, out=model, overwrite=True, **chosen))
    seconds = time.monotonic() - started
    encode.run(encode.EncodeSettings(features=features, model=model, out=index, overwrite=True))
    found = evaluate.evaluate(evaluate.EvaluateSettings(index=index, neighbors="float", features=features))
    check(found, model, index, chosen)
    result = {"method": method, "bits": bits, "seed": seed, "seconds": seconds, **found}
    kept.write_text(json.dumps(result))
    return result


def check(found: dict, model: Path, index: Path, chosen: dict) -> None:
    """Refuses a result that can't be right."""
    if not found["map_worst"] <= found["map"] <= found["map_best"]:
        raise SystemExit(f"mAP {found['map']} is not between its bounds {found['map_worst']} and {found['map_best']}")
    with safe_open(model, framework="numpy") as file:
        trained = json.loads(file.metadata()["sdc"])["training"]
    if "preset" in chosen and trained["steps"] == 0:
        raise SystemExit("a trained method took no step")
    opened = Index.open(index)
    queries = opened.queries.codes[:8]
    distances, _ = opened.search(queries, 20)
    by_hand = np.bitwise_count(queries[:, None] ^ opened.database.codes[None]).sum(2, dtype=np.int32)
    np.testing.assert_array_equal(distances, np.sort(by_hand, axis=1)[:, :20])


def table(results: list[dict], methods: list[str], bits: list[int]) -> str:
    """Markdown: mAP, mean ± sd over seeds, and the median training time, by method and bits."""
    at = results[0]["at"]
    lines = [
        f"| method | {' | '.join(f'{b} bits' for b in bits)} | training, s ({bits[-1]} bits) |",
        f"|---|{'---|' * len(bits)}---|",
    ]
    for method in methods:
        row = []
        for b in bits:
            maps = [r["map"] for r in results if r["method"] == method and r["bits"] == b]
            spread = f" ± {statistics.stdev(maps):.3f}" if len(maps) > 1 else ""
            row.append(f"{statistics.mean(maps):.3f}{spread}")
        seconds = [r["seconds"] for r in results if r["method"] == method and r["bits"] == bits[-1]]
        lines.append(f"| {method} | {' | '.join(row)} | {statistics.median(seconds):.1f} |")
    exact = f"{results[0]['map_float']:.3f}"
    lines.append(f"| float features, cosine | {' | '.join([exact] * len(bits))} | |")
    title = f"mAP@{at}, expected over ties; {results[0]['queries']} queries, {results[0]['database']} items"
    return "\n".join([title, "", *lines])


@click.command(help=__doc__)
@click.option("--features", type=click.Path(path_type=Path), default=Path("feats.h5"), show_default=True)
@click.option("--bits", default="16,32,64,128", show_default=True)
@click.option("--methods", default="default,paper-code,itq,lsh", show_default=True, help="Presets of sdc, or methods.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Keeps finished cells.  [default: a folder beside --out]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("quality.md"), show_default=True)
def main(features: Path, bits: str, methods: str, seeds: int, work: Path | None, out: Path) -> None:
    work = work or out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    names, lengths = methods.split(","), [int(b) for b in bits.split(",")]
    results = [cell(features, method, b, seed, work) for b in lengths for seed in range(seeds) for method in names]
    machine = f"sdc {__version__}, {platform.machine()}, Python {platform.python_version()}, {seeds} seed(s) a cell"
    text = f"{table(results, names, lengths)}\n\n{machine}\n"
    out.write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
