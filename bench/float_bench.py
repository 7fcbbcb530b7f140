"""What a query in float costs beside the Hamming scan, and what it finds beside FAISS' quantizers at equal bytes.

    python bench/float_bench.py [--rows 10000000] [--features text.h5 --features sift.h5 --work DIR]

The first part times one query in random codes of 64 bits: the ten nearest by Hamming distance, then in float with the
candidates that are scored where nothing was measured, with a hundredth of the codes, and with all; on one thread also
FAISS' PQ of 9 bytes, with and without fast scan, over as many random vectors. Bar: the first of these at most 1.5 times
the Hamming scan, on one thread and on all.

The second part takes the features' files of bench/embedding_sets.py and of `sdc extract`, split as by
bench/neighbors_bench.py; a model of the goal neighbors is trained on the database rows and kept in --work. Recall@10 is
of the exact neighbours by cosine, milliseconds of single queries on one thread, from vectors to neighbours (the
Hamming scan's and ours with the head's products, FAISS' with its rotation). Codes of 8 bytes and the length byte are
compared with PQ of 9 bytes. Bar: recall within .01 of scoring every code.

Each contender has its turn in each round; medians of wall clock and of processor time, which other work on the cores
hardly changes. Results are compared with NumPy's before anything is printed. A missed bar is an exit status of 1.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from neighbors_bench import split

import sdc
from sdc.retrieve.index import Index, faiss_module
from sdc.retrieve.rerank import float_search
from sdc.retrieve.rerank.candidates import RECALL, choose_candidates, unmeasured
from sdc.train import ByteTables, CodeTables, Model

K, BITS, DIMENSION, ROUNDS, TIMED = 10, 64, 384, 15, 50
PRICE, LOST = 1.5, 0.01  # the bars


class Took(NamedTuple):
    """Milliseconds, medians."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} ({self.processor:.2f})"


def in_turns(searches: dict[str, Callable[[int], object]], rounds: int) -> dict[str, Took]:
    """The medians of searches with the number of a query."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in searches}
    for number in range(rounds):
        for name, search in searches.items():
            start, spent = time.perf_counter(), time.process_time()
            search(number)
            took[name].append((time.perf_counter() - start, time.process_time() - spent))
    medians = {name: [statistics.median(values) for values in zip(*times, strict=True)] for name, times in took.items()}
    return {name: Took(1e3 * wall, 1e3 * processor) for name, (wall, processor) in medians.items()}


def price(rows: int) -> tuple[str, bool]:
    """The first part: its table, and whether the bar is met."""
    rng = np.random.default_rng(0)
    tables = ByteTables.on_grid(rng.standard_normal((BITS // 8, 256, DIMENSION)) / 20, rng.random(DIMENSION) / 20, 1.0)
    tensors = {"output.weight": rng.standard_normal((BITS, DIMENSION)), "output.bias": np.zeros(BITS)}
    model = Model(tensors, {"method": "itq", "settings": {}}, CodeTables(tables))
    codes = rng.integers(0, 256, (rows, BITS // 8), dtype=np.uint8)
    index = Index.build(codes, lengths=rng.integers(0, 256, rows, dtype=np.uint8), copy=False)
    queries = rng.standard_normal((ROUNDS, DIMENSION)).astype(np.float32)
    outputs, own = model.outputs(queries), model.encode(queries)

    def in_float(candidates: int) -> Callable[[int], object]:
        def search(number: int) -> object:
            one = slice(number, number + 1)
            return float_search(
                index, model, queries[one], K, candidates=candidates, codes=own[one], outputs=outputs[one]
            )

        return search

    def hamming(number: int) -> object:
        return index.search(own[number : number + 1], K)

    few, share = unmeasured(K, rows), rows // 100
    check(index, model, own, queries, outputs, few)
    sizes = {f"{size:,} scored": size for size in (few, share)}
    lines = ["| threads | Hamming scan | " + " | ".join(sizes) + " | every code scored |", "|---" * 5 + "|"]
    met, every = True, sorted(os.sched_getaffinity(0))
    for cpus in (every[:1], every):
        os.sched_setaffinity(0, cpus)
        took = in_turns({"hamming": hamming, **{name: in_float(size) for name, size in sizes.items()}}, ROUNDS)
        everything = in_turns({"all": in_float(rows)}, 3)["all"]
        base = took.pop("hamming")
        cells = [f"{each}, {each.processor / base.processor:.2f} ×" for each in took.values()]
        lines.append(f"| {len(cpus)} | {base} | " + " | ".join(cells) + f" | {everything} |")
        met = met and next(iter(took.values())).processor <= PRICE * base.processor
    os.sched_setaffinity(0, every[:1])
    others = ", ".join(f"{name} {took}" for name, took in product_quantizers(rows).items())
    os.sched_setaffinity(0, every)
    return "\n".join(lines) + f"\n\nFAISS on one thread: {others}", met


def product_quantizers(rows: int) -> dict[str, Took]:
    """How long FAISS' PQ of 9 bytes takes for a query, without the rotation of OPQ."""
    faiss, rng = faiss_module(), np.random.default_rng(0)
    faiss.omp_set_num_threads(1)
    dimension = 36
    made = {name: faiss.index_factory(dimension, name) for name in ("PQ18x4fs", "PQ9x8")}
    sample = rng.standard_normal((20_000, dimension)).astype(np.float32)
    for index in made.values():
        index.train(sample)
    for start in range(0, rows, 500_000):
        block = rng.standard_normal((min(500_000, rows - start), dimension)).astype(np.float32)
        for index in made.values():
            index.add(block)
    return in_turns(
        {name: lambda n, index=index: index.search(sample[n : n + 1], K) for name, index in made.items()}, ROUNDS
    )


def check(index: Index, model: Model, own: np.ndarray, queries: np.ndarray, outputs: np.ndarray, count: int) -> None:
    """Three queries are as NumPy has them."""
    assert model.tables is not None
    tables = model.tables.decoder
    found = float_search(index, model, queries[:3], K, candidates=count, codes=own[:3], outputs=outputs[:3])
    _, positions = index.search_positions(own[:3], count)
    for query, near in enumerate(positions):
        scores = tables.scores(queries[query : query + 1], index.items.codes(near), index.items.lengths(near))[0]
        order = np.lexsort((near, -scores))[:K]
        assert (near[order] == found.positions[query]).all(), "other neighbours than NumPy's"


def trained(path: Path, database: np.ndarray, work: Path) -> Model:
    kept = work / f"{path.stem}.safetensors"
    if not kept.exists():
        work.mkdir(exist_ok=True)
        sdc.Hasher(bits=BITS, goal="neighbors", search_by="both", seed=0).fit(database).save(kept)
    return Model.load(kept)


def of_set(path: Path, work: Path) -> tuple[list[str], bool]:
    """The second part of one set: the rows of its table, and whether the bar is met."""
    database, queries, nearest = split(path, held_out=False)
    model = trained(path, database, work)
    assert model.tables is not None
    codes, tables = model.encode(database), model.tables.decoder
    index = Index.build(codes, lengths=tables.lengths(codes))
    # The queries that choose are not those that are measured.
    chosen = choose_candidates(index, model, Rows(database), K, RECALL).shortlist
    one = [queries[number : number + 1] for number in range(len(queries))]
    searches: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "Hamming": lambda x: index.search_positions(model.encode(x, query=True), K)[1],
        f"float, {chosen} candidates": lambda x: float_search(index, model, x, K, candidates=chosen).positions,
        "float, every code": lambda x: float_search(index, model, x, K, candidates=len(codes)).positions,
        **quantizers(database),
    }
    every = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, every[:1])
    took = in_turns({name: lambda n, search=search: search(one[n]) for name, search in searches.items()}, TIMED)
    together = in_turns({name: lambda _, search=search: search(queries) for name, search in searches.items()}, 3)
    os.sched_setaffinity(0, every)
    recalls, rows = {}, []
    for name, search in searches.items():
        found = search(queries)
        recalls[name] = float(np.mean([np.isin(a, b).mean() for a, b in zip(found, nearest, strict=True)]))
        batch = 1e3 * together[name].processor / len(queries)
        rows.append(f"| {path.stem} | {name} | {recalls[name]:.3f} | {took[name]} | {batch:.0f} |")
    lost = recalls["float, every code"] - recalls[f"float, {chosen} candidates"]
    return rows, lost <= LOST


class Rows:
    """Features in memory, by their rows."""

    def __init__(self, features: np.ndarray) -> None:
        self._features, self.dimension = features, features.shape[1]

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self._features[rows]


def quantizers(database: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """FAISS' PQ of 9 bytes, behind OPQ, one thread."""
    faiss, unit = faiss_module(), unit_length(database)
    faiss.omp_set_num_threads(1)
    searches = {}
    for name, factory in (("PQ fast scan", "OPQ18_72,PQ18x4fs"), ("OPQ", "OPQ9_72,PQ9x8")):
        made = faiss.index_factory(unit.shape[1], factory)
        made.train(unit)
        made.add(unit)
        searches[f"{name}, {factory}"] = lambda x, made=made: made.search(unit_length(x), K)[1]
    return searches


def unit_length(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@click.command()
@click.option("--rows", default=10_000_000)
@click.option("--features", type=click.Path(path_type=Path, exists=True), multiple=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("float-bench"))
@click.option("--out", type=click.Path(path_type=Path), help="A Markdown file.")
def main(rows: int, features: tuple[Path, ...], work: Path, out: Path | None) -> None:
    text, met = price(rows)
    parts = [
        f"sdc {sdc.__version__}, Python {platform.python_version()}, {platform.processor() or platform.machine()}",
        f"One query in {rows:,} codes of {BITS} bits, milliseconds (of processor time):",
        text,
    ]
    lines = ["| set | contender | recall@10 | ms a query (of processor time) | µs a query of 1,000 |", "|---" * 5 + "|"]
    for path in features:
        of_it, kept = of_set(path, work)
        lines, met = lines + of_it, met and kept
    if features:
        parts.append("\n".join(lines))
    text = "\n\n".join(parts) + "\n"
    click.echo(text)
    if out:
        out.write_text(text, encoding="utf-8")
    if not met:
        click.echo("a bar is missed", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
