"""Retrieval quality and training time of methods and presets, on one or more feature files, in one run.

    python bench/quality_bench.py --features feats.h5 --bits 16,32,64,128 --methods default,paper-code,itq,lsh

The cells are those of `sdc ablate`, whose grid has no presets beside methods: here both stand in one list, and train
with all processors. Scores are expected over ties: mAP by label, or the recall of the float features' k nearest
neighbours (--score recall@10), which needs no labels. A finished cell is kept (in --work) and not computed again.
Methods in turn for each seed, so that a drift of the machine's speed touches all alike.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import click

from sdc import __version__
from sdc.experiments import (
    DASH,
    Cell,
    Row,
    cell_name,
    compute,
    grouped,
    make_rows,
    markdown_table,
    mean_sd,
    values,
    with_spread,
)
from sdc.extract.store import FeatureStore
from sdc.retrieve.features import CUTOFFS
from sdc.train import PRESETS, TrainSettings
from sdc.train.methods import METHODS

SCORES = ("map", *(f"recall@{k}" for k in CUTOFFS))


def measure(store: FeatureStore, methods: Sequence[str], bits: Sequence[int], seeds: int, work: Path) -> list[Row]:
    """A row a cell, see `sdc.experiments.make_rows`; `method` is a preset of sdc or the name of another method."""
    cells = []
    for length, seed, method in product(bits, range(seeds), methods):
        chosen = {"method": "sdc", "preset": method} if method in PRESETS else {"method": method}
        settings = TrainSettings(features=store.path, bits=length, seed=seed, **chosen)
        cells.append(Cell(store.path, {"method": method}, settings, cell_name(settings, store.fingerprint)))
    return make_rows(cells, [result(cell, work / f"{cell.name}.json") for cell in cells])


def result(cell: Cell, path: Path) -> dict:
    if not path.exists():
        compute(cell, path)
    found = json.loads(path.read_text(encoding="utf-8"))
    if "evaluate" in found:
        check(found["evaluate"])
    return found


def check(scores: dict) -> None:
    """Refuses scores that can't be right."""
    if "map" in scores and not scores["map_worst"] <= scores["map"] <= scores["map_best"]:
        raise SystemExit(f"mAP {scores['map']} is not between {scores['map_worst']} and {scores['map_best']}")
    if not all(0 <= recall <= 1 for recall in scores["neighbor_recall"].values()):
        raise SystemExit(f"a recall of neighbours is not between 0 and 1: {scores['neighbor_recall']}")


def table(rows: Sequence[Row], bits: Sequence[int], score: str) -> str:
    """Markdown: a score, mean ± sd over seeds, and the median training time, by method and bits."""
    lines = []
    for (method,), own in grouped(rows, ["method"]).items():
        by_bits = grouped(own, ["bits"])
        seconds = values(by_bits[bits[-1],], "seconds")
        time = f"{statistics.median(seconds):.1f}" if seconds else DASH
        lines.append([str(method), *(mean(by_bits[length,], score) for length in bits), time])
    title = f"recall of the float features' {score.removeprefix('recall@')} nearest neighbours by cosine"
    at, exact = values(rows, "at"), values(rows, "map_float")
    if score == "map" and exact:
        lines.append(["float features, cosine", *[f"{exact[0]:.3f}"] * len(bits), ""])
        title = f"mAP@{at[0]}"
    titles = ["method", *(f"{length} bits" for length in bits), f"training, s ({bits[-1]} bits)"]
    return f"{title}, expected over ties\n\n{markdown_table(titles, lines)}"


def mean(rows: Iterable[Row], score: str) -> str:
    rows = list(rows)
    found = mean_sd(rows, score)
    return with_spread(found[0], found[1] if len(values(rows, score)) > 1 else None, ".3f") if found else DASH


def section(store: FeatureStore, bits: Sequence[int], scores: Sequence[str], rows: Sequence[Row]) -> str:
    """The tables of one set, a score each, and why there are dashes."""
    sizes = ", ".join(f"{len(rows)} {name}" for name, rows in store.splits.items())
    parts = [f"## {store.path.name}: {store.dimension} dimensions; rows: {sizes}"]
    parts += [table(rows, bits, score) for score in scores]
    refused = {f"{DASH} {row['method']}, {row['bits']} bits: {row['refused']}" for row in rows if row["refused"]}
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
        sections.append(section(store, lengths, names, measure(store, methods, lengths, seeds, work)))
    machine = f"sdc {__version__}, {platform.machine()}, Python {platform.python_version()}, {seeds} seed(s) a cell"
    text = "\n\n".join([*sections, f"{machine}\n"])
    out.write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
