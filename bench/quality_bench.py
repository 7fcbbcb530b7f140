"""Retrieval quality and training time of methods and presets, on one or more feature files, in one run.

    python bench/quality_bench.py --features feats.h5 --bits 16,32,64,128 --methods default,paper-code,itq,lsh

Every cell is the whole chain `sdc train`, `sdc encode`, `sdc evaluate`, from the last epoch, with scores expected over
ties: mAP by label, or the recall of the float features' k nearest neighbours (--score recall@10), which needs no
labels. A finished cell is kept (in --work) and not computed again. Methods in turn for each seed, so that a drift of
the machine's speed touches all alike.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from safetensors import safe_open

from sdc import Index, __version__
from sdc.errors import UsageError
from sdc.extract.store.store import FeatureStore
from sdc.retrieve import encode
from sdc.retrieve.evaluate import run
from sdc.retrieve.features.cosine import CUTOFFS
from sdc.train import run as train
from sdc.train.methods import METHODS
from sdc.train.recipe import PRESETS

SCORES = ("map", *(f"recall@{k}" for k in CUTOFFS))
DASH = "—"  # the method cannot make that many bits


def cell(store: FeatureStore, method: str, bits: int, seed: int, work: Path) -> dict:
    """Trains, encodes and evaluates once; `method` is a preset of sdc or the name of another method.

    Where the method refuses so many bits the result has no scores, and says why in `refused`.
    """
    kept = work / f"{store.path.stem}-{store.fingerprint[:8]}-{method}-{bits}-{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    model, index = work / "model.safetensors", work / "db.bin"
    chosen = {"preset": method} if method in PRESETS else {"method": method}
    result = {"method": method, "bits": bits, "seed": seed}
    started = time.monotonic()
    try:
        train.run(train.TrainSettings(features=store.path, bits=bits, seed=seed, out=model, overwrite=True, **chosen))
        result["seconds"] = time.monotonic() - started
    except UsageError as refusal:
        result["refused"] = str(refusal)
    else:
        encode.run(encode.EncodeSettings(features=store.path, model=model, out=index, overwrite=True))
        found = run.evaluate(run.EvaluateSettings(index=index, neighbors="float", features=store.path))
        check(found, model, index, chosen)
        result |= found
    kept.write_text(json.dumps(result))
    return result


def check(found: dict, model: Path, index: Path, chosen: dict) -> None:
    """Refuses a result that can't be right."""
    if "map" in found and not found["map_worst"] <= found["map"] <= found["map_best"]:
        raise SystemExit(f"mAP {found['map']} is not between its bounds {found['map_worst']} and {found['map_best']}")
    if not all(0 <= recall <= 1 for recall in found["neighbor_recall"].values()):
        raise SystemExit(f"a recall of neighbours is not between 0 and 1: {found['neighbor_recall']}")
    with safe_open(model, framework="numpy") as file:
        trained = json.loads(file.metadata()["sdc"])["training"]
    if "preset" in chosen and trained["steps"] == 0:
        raise SystemExit("a trained method took no step")
    opened = Index.open(index)
    queries = opened.queries.codes[:8]
    distances, _ = opened.search(queries, 20)
    by_hand = np.bitwise_count(queries[:, None] ^ opened.database.codes[None]).sum(2, dtype=np.int32)
    np.testing.assert_array_equal(distances, np.sort(by_hand, axis=1)[:, :20])


def value(result: dict, score: str) -> float | None:
    """One of SCORES, None where the result lacks it."""
    return result.get("map") if score == "map" else result.get("neighbor_recall", {}).get(score.removeprefix("recall@"))


def table(results: list[dict], methods: list[str], bits: list[int], score: str) -> str:
    """Markdown: a score, mean ± sd over seeds, and the median training time, by method and bits."""

    def values(method: str, b: int, of: Callable[[dict], float | None]) -> list[float]:
        found = [of(result) for result in results if result["method"] == method and result["bits"] == b]
        return [number for number in found if number is not None]

    lines = [
        f"| method | {' | '.join(f'{b} bits' for b in bits)} | training, s ({bits[-1]} bits) |",
        f"|---|{'---|' * len(bits)}---|",
    ]
    for method in methods:
        row = []
        for b in bits:
            scores = values(method, b, lambda result: value(result, score))
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            row.append(f"{statistics.mean(scores):.3f}{spread}" if scores else DASH)
        seconds = values(method, bits[-1], lambda result: result.get("seconds"))
        lines.append(f"| {method} | {' | '.join(row)} | {f'{statistics.median(seconds):.1f}' if seconds else DASH} |")
    scored = next((result for result in results if "refused" not in result), {})
    title = f"recall of the float features' {score.removeprefix('recall@')} nearest neighbours by cosine"
    if score == "map" and scored:
        exact = f"{scored['map_float']:.3f}"
        lines.append(f"| float features, cosine | {' | '.join([exact] * len(bits))} | |")
        title = f"mAP@{scored['at']}"
    return "\n".join([f"{title}, expected over ties", "", *lines])


def section(store: FeatureStore, methods: list[str], bits: list[int], scores: list[str], results: list[dict]) -> str:
    """The tables of one set, a score each, and why there are dashes."""
    sizes = ", ".join(f"{len(rows)} {name}" for name, rows in store.splits.items())
    parts = [f"## {store.path.name}: {store.dimension} dimensions; rows: {sizes}"]
    parts += [table(results, methods, bits, score) for score in scores]
    refused = {f"{DASH} {r['method']}, {r['bits']} bits: {r['refused']}" for r in results if "refused" in r}
    return "\n\n".join([*parts, *sorted(refused)])


def names_of(known: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def parse(context: click.Context, option: click.Parameter, text: str) -> list[str]:
        wrong = sorted({*text.split(",")} - {*known})
        if wrong:
            raise click.BadParameter(f"{', '.join(wrong)}; known: {', '.join(known)}")
        return text.split(",")

    return parse


@click.command(help=__doc__)
@click.option("--features", type=click.Path(path_type=Path), multiple=True, default=["feats.h5"], show_default=True)
@click.option("--bits", default="16,32,64,128", show_default=True)
@click.option("--methods", default="default,paper-code,itq,lsh", show_default=True, help="Presets of sdc, or methods.",
              callback=names_of((*PRESETS, *METHODS)))  # fmt: skip
@click.option("--score", default="map", show_default=True, help=f"A table each: {', '.join(SCORES)}.",
              callback=names_of(SCORES))  # fmt: skip
@click.option("--seeds", default=1, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Keeps finished cells.  [default: a folder beside --out]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("quality.md"), show_default=True)
def main(
    features: tuple[Path, ...],
    bits: str,
    methods: list[str],
    score: list[str],
    seeds: int,
    work: Path | None,
    out: Path,
) -> None:
    work = work or out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    lengths = [int(b) for b in bits.split(",")]
    stores = [FeatureStore(path) for path in features]
    scores = [[name for name in score if name != "map" or store.labels is not None] for store in stores]
    if [] in scores:
        raise click.UsageError(
            f"{features[scores.index([])]} has no labels for a mAP: try --score recall@10,recall@100"
        )
    sections = []
    for store, names in zip(stores, scores, strict=True):
        results = [cell(store, method, b, seed, work) for b in lengths for seed in range(seeds) for method in methods]
        sections.append(section(store, methods, lengths, names, results))
    machine = f"sdc {__version__}, {platform.machine()}, Python {platform.python_version()}, {seeds} seed(s) a cell"
    text = "\n\n".join([*sections, f"{machine}\n"])
    out.write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
