"""Recall over queries a second at equal memory, beside what people use: FAISS, usearch and hnswlib.

    python bench/frontier_bench.py --out bench/results/frontier            (hours)
    python bench/frontier_bench.py --features sift.h5 --sets real --bytes 16,32 --threads one
    python bench/frontier_bench.py --sets clustered --rows 20000 --bytes 16 --threads one    (a minute or two)

`real` is the file given by --features, else the SIFT descriptors of `bench/embedding_sets.py sift --faint`; `clustered`
the vectors of bench/rerank_bench.py. 1000 rows of the query split are the queries; all is fitted to the train split and
holds the database split, of unit vectors.

    sdc codes, sdc float      `--goal neighbors` by Hamming distance; with the query in float, by `float_search`
    sdc reranked[, int8]      the same with the features of a shortlist compared, `auto` among them, by `sdc.Index`
    sign reranked             signs of all dimensions, and the same
    ivfpq[, reranked]         FAISS' IVF-PQ with fast scan behind OPQ; and the same features of its candidates compared
    ivfrabitq[, reranked]     FAISS' IVF-RaBitQ of as many bits a dimension as fit, likewise
    ivfpq refined             IVF-PQ with fast scan, refined by vectors of 8 bits a dimension in memory
    hnsw sq8, hnsw sq4        FAISS' HNSW over quantized vectors; also usearch (int8) and hnswlib (float32)

--bytes is what a code takes. The table also says what is in memory in all, a vector: length bytes, ids, links,
centroids and models count. What is compared from a file (reranked) is in the page cache, and counts as on disk. Build
is processor time. One thread: the process is pinned to a processor; single queries, median, contenders in turn. All:
all queries at once, the median of five rounds. A found item counts for recall where its cosine is at least the tenth's
less 1e-6.

Nothing is printed unless exact search by FAISS, and our reranking of every item, have recall 1, no contender gives an
item twice, and single queries find what all at once do. It writes OUT.csv, OUT.md and OUT-SET.png.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import faiss
import numpy as np
from embedding_sets import descriptors, photographs, write
from rerank_bench import blocks
from threadpoolctl import threadpool_limits

import sdc
from sdc.arrays import unit_rows
from sdc.compare.contender import Contender
from sdc.compare.frontier import draw_frontier
from sdc.compare.measurements import time_queries
from sdc.compare.results import Latency, Mean, Result
from sdc.devices import cpu_count
from sdc.errors import SdcError, log
from sdc.experiments import write_csv
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.files import atomic_write
from sdc.retrieve import code_lengths
from sdc.retrieve.rerank import float_search

K, QUERIES, BATCH, ROUNDS, CHECKED = 10, 1000, 4096, 5, 5
TARGETS = (0.9, 0.95)
OPTIONAL = ("usearch", "hnswlib")
Rows = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Data:
    """One set: unit vectors in memory, the same in a memory-mapped file, and what is right."""

    name: str
    path: Path
    train: np.ndarray
    database: np.ndarray
    queries: np.ndarray
    tenth: np.ndarray
    steps: int  # of training our heads

    @classmethod
    def of(cls, name: str, store: FeatureStore, folder: Path, queries: int, steps: int) -> Data:
        database = unit_rows(store.take(store.splits["database"]), np.float32)
        path, listing = folder / f"{name}-unit.h5", Listing([str(row) for row in range(len(database))], {})
        write_features(path, listing, {"source": "import"}, store.dimension, np.float32, iter(_parts(database)))
        train = unit_rows(store.take(store.splits["train"]), np.float32)
        asked = unit_rows(store.take(store.splits["query"][:queries]), np.float32)
        tenth = np.concatenate([np.sort(part @ database.T, axis=1)[:, -K] for part in np.array_split(asked, 50)])
        return cls(name, path, train, database, asked, tenth, steps)

    def recall(self, found: np.ndarray) -> float:
        if any(len(np.unique(row[row >= 0])) < (row >= 0).sum() for row in found) or found.max() >= len(self.database):
            raise SdcError("a contender gives an item twice, or one that is not there: nothing to measure")
        return float((self.cosines(found) >= self.tenth[:, None] - 1e-6).mean())

    def cosines(self, found: np.ndarray) -> np.ndarray:
        """Of the first queries with the items found for them (Q, K), in falling order; -2 where there is none."""
        items = self.database[np.maximum(found, 0)]
        cosines = np.einsum("qd,qkd->qk", self.queries[: len(found)], items)
        return -np.sort(-np.where(found >= 0, cosines, -2), axis=1)


class Point(Contender):
    """One contender at one setting; `bytes` and `disk` are of a vector, `size` is that of its code, if it has one."""

    query = "float"

    def __init__(self, made: Built, setting: str, search: Rows) -> None:
        self.made, self.setting, self.rows, self.bytes, self.disk = made, setting, search, made.bytes, made.disk

    def prepare(self, features: np.ndarray) -> np.ndarray:
        return features

    def search(self, prepared: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = self.rows(prepared)
        return found, found

    def groups(self, prepared: np.ndarray, depth: int) -> tuple[np.ndarray, int]:
        raise NotImplementedError


@dataclass(frozen=True)
class Built:
    """What is searched: its name, the bytes a vector in memory and on disk, and the processor time it took."""

    name: str
    size: int | None
    bytes: int
    disk: int
    seconds: float

    def at(self, setting: str, search: Rows) -> Point:
        return Point(self, setting, search)


def ours(data: Data, size: int) -> Iterator[Point]:
    yield from _hashed("sdc", data, size, {"goal": "neighbors", "steps": data.steps}, alone=True)


def signs(data: Data, size: int) -> Iterator[Point]:
    """At the one length that has a bit for every dimension."""
    if 8 * size == -(-data.database.shape[1] // 8) * 8:
        yield from _hashed("sign", data, size, {"method": "sign"}, alone=False)


def _hashed(name: str, data: Data, size: int, how: dict[str, Any], *, alone: bool) -> Iterator[Point]:
    started = time.process_time()
    hasher = sdc.Hasher(bits=8 * size, **how).fit(data.train)
    codes = np.concatenate([hasher.encode(part) for part in _parts(data.database)])
    lengths = code_lengths(hasher.model, codes)
    seconds = time.process_time() - started
    count, stored = len(codes), 4 * data.database.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        model = hasher.save(Path(folder) / "model.safetensors").stat().st_size
    memory = size + (lengths is not None) + round(model / count)
    index = sdc.Index.build(codes, model=hasher, lengths=lengths, copy=False)
    if alone:
        built = Built(f"{name} codes", size, memory, memory, seconds)
        yield built.at("", lambda q: index.search(q, K).rows)
        built = Built(f"{name} float", size, memory, memory, seconds)
        for share in (0.001, 0.01, 0.1):
            most = max(K, round(share * count))
            yield built.at(f"{share:g} of the items", lambda q, n=most: _in_float(index, hasher, q, n))
    for precision, disk in (("stored", stored), ("int8", stored // 4)):
        fine = sdc.Index.build(codes, model=hasher, lengths=lengths, copy=False)
        fine.attach(data.path, precision=precision)
        if precision == "stored":
            _check_rerank(data, fine)
        built = Built(f"{name} reranked{', int8' * (precision == 'int8')}", size, memory, memory + disk, seconds)
        for factor in (2, 5, 10, 20, 50, 100, *["auto"] * alone):  # for signs it may take most of the items
            yield built.at(f"factor {factor}", lambda q, f=factor, i=fine: i.search(q, K, rerank=f).rows)


def _in_float(index: sdc.Index, hasher: sdc.Hasher, queries: np.ndarray, candidates: int) -> np.ndarray:
    best = float_search(index, hasher.model, queries, K, candidates=candidates)
    return index.items.rows(best.positions)


def _check_rerank(data: Data, index: sdc.Index) -> None:
    found = index.search(data.queries[:3], K, rerank=len(data.database) / K).rows
    if not (data.cosines(found) >= data.tenth[:3, None] - 1e-6).all():
        raise SdcError("reranking every item is not exact: nothing to measure")


def ivfpq(data: Data, size: int) -> Iterator[Point]:
    dimension = data.database.shape[1]
    if dimension % (2 * size) == 0:
        text = f"OPQ{2 * size},IVF{_lists(data)},PQ{2 * size}x4fs"
        yield from _inverted("ivfpq", data, size, text)
        if size <= dimension // 4:  # beside the vectors in memory longer codes only take longer
            yield from _refined(data, size, text)


def ivfrabitq(data: Data, size: int) -> Iterator[Point]:
    dimension = data.database.shape[1]
    fitting = [each for each in (2, 3, 4, 5, 6, 7, 8) if dimension * each // 8 + 20 <= size]
    each = fitting[-1] if fitting else 1
    width = dimension if each > 1 else min(dimension, 8 * (size - 8))
    if width >= 8:
        yield from _inverted("ivfrabitq", data, size, f"PCAR{width},IVF{_lists(data)},RaBitQfs{each}")


def _inverted(name: str, data: Data, size: int, text: str) -> Iterator[Point]:
    index, seconds = _faiss(data, text)
    memory, lists = _serialized(index, data), faiss.extract_index_ivf(index)
    features = FeatureStore(data.path, verify=False).features
    alone = Built(name, size, memory, memory, seconds)
    reranked = Built(f"{name} reranked", size, memory, memory + 4 * features.shape[1], seconds)
    for nprobe in _probes(data):

        def candidates(queries: np.ndarray, count: int, nprobe: int = nprobe) -> np.ndarray:
            lists.nprobe = nprobe
            return index.search(queries, count)[1]

        yield alone.at(f"nprobe {nprobe}", lambda q, find=candidates: find(q, K))
        for factor in (5, 20, 100):
            yield reranked.at(
                f"nprobe {nprobe}, factor {factor}",
                lambda q, find=candidates, f=factor: _by_features(q, find(q, K * f), features),
            )


def _by_features(queries: np.ndarray, candidates: np.ndarray, features: np.ndarray) -> np.ndarray:
    """The K candidates (Q, C) of the highest cosines; −1 is none."""
    best = np.empty((len(queries), K), np.int64)
    for query, row, out in zip(queries, candidates, best, strict=True):
        row = np.sort(row)  # in the order of the file
        cosines = np.where(row >= 0, features[np.maximum(row, 0)] @ query, -2)
        out[:] = row[np.argsort(-cosines, kind="stable")[:K]]
    return best


def _refined(data: Data, size: int, text: str) -> Iterator[Point]:
    index, seconds = _faiss(data, f"{text},Refine(SQ8)")
    memory, inner = _serialized(index, data), faiss.extract_index_ivf(index.base_index)
    built = Built(f"ivfpq {size} refined", None, memory, memory, seconds)
    for nprobe in _probes(data):
        for factor in (4, 16, 64):

            def search(queries: np.ndarray, nprobe: int = nprobe, factor: int = factor) -> np.ndarray:
                inner.nprobe, index.k_factor = nprobe, factor
                return index.search(queries, K)[1]

            yield built.at(f"nprobe {nprobe}, factor {factor}", search)


def exact(data: Data) -> Iterator[Point]:
    index, seconds = _faiss(data, "Flat")
    memory = _serialized(index, data)
    yield Built("exact", None, memory, memory, seconds).at("", lambda q: index.search(q, K)[1])


def hnsw(data: Data) -> Iterator[Point]:
    for links, kind in ((16, "SQ8"), (8, "SQ4")):
        index, seconds = _faiss(data, f"HNSW{links}_{kind}")
        memory = _serialized(index, data)
        built = Built(f"hnsw {kind.lower()}", None, memory, memory, seconds)
        for width in _WIDTHS:

            def search(queries: np.ndarray, width: int = width, index: Any = index) -> np.ndarray:
                index.hnsw.efSearch = width
                return index.search(queries, K)[1]

            yield built.at(f"efSearch {width}", search)


def usearch(data: Data) -> Iterator[Point]:
    from usearch.index import Index

    count, dimension = data.database.shape
    started = time.process_time()
    index = Index(ndim=dimension, metric="cos", dtype="i8", connectivity=16)
    index.add(np.arange(count), data.database, threads=cpu_count())
    memory = round(len(bytes(index.save())) / count)
    built = Built("usearch int8", None, memory, memory, time.process_time() - started)
    for width in _WIDTHS:

        def search(queries: np.ndarray, width: int = width) -> np.ndarray:
            index.expansion_search = width
            keys = index.search(queries, K, threads=cpu_count()).keys
            return np.asarray(keys).reshape(len(queries), -1).astype(np.int64)

        yield built.at(f"expansion {width}", search)


def hnswlib(data: Data) -> Iterator[Point]:
    module = importlib.import_module("hnswlib")
    count, dimension = data.database.shape
    started = time.process_time()
    index = module.Index("cosine", dimension)
    index.init_index(count, M=16, ef_construction=100, random_seed=0)
    index.add_items(data.database, num_threads=cpu_count())
    memory = round(index.index_file_size() / count)
    built = Built("hnswlib float32", None, memory, memory, time.process_time() - started)
    for width in _WIDTHS:

        def search(queries: np.ndarray, width: int = width) -> np.ndarray:
            index.set_ef(width)
            return index.knn_query(queries, K, num_threads=cpu_count())[0].astype(np.int64)

        yield built.at(f"ef {width}", search)


CODES: dict[str, Callable[[Data, int], Iterator[Point]]] = {
    "sdc": ours, "sign": signs, "ivfpq": ivfpq, "ivfrabitq": ivfrabitq,
}  # fmt: skip
WHOLE: dict[str, Callable[[Data], Iterator[Point]]] = {
    "exact": exact, "hnsw": hnsw, "usearch": usearch, "hnswlib": hnswlib,
}  # fmt: skip
_WIDTHS = (16, 32, 64, 128, 256)


def _faiss(data: Data, text: str) -> tuple[Any, float]:
    started = time.process_time()
    index = faiss.index_factory(data.database.shape[1], text)
    if text.startswith("OPQ"):
        _quicken(index.base_index if "Refine" in text else index)
    index.train(data.train)
    for part in _parts(data.database):
        index.add(part)
    return index, time.process_time() - started


def _quicken(index: Any) -> None:
    """Has the rotation of 4-bit codes learn with codes of 4 bits; FAISS' way takes 20 times as long."""
    rotation = faiss.downcast_VectorTransform(faiss.downcast_index(index).chain.at(0))
    rotation.pq = faiss.ProductQuantizer(rotation.d_out, rotation.M, 4)
    rotation.pq.this.disown()
    rotation.niter = 20


def _serialized(index: Any, data: Data) -> int:
    return round(len(faiss.serialize_index(index)) / len(data.database))


def _parts(vectors: np.ndarray) -> list[np.ndarray]:
    return [vectors[start : start + BATCH] for start in range(0, len(vectors), BATCH)]


def _lists(data: Data) -> int:
    """About √N, of which each has 39 training rows as FAISS asks for."""
    return int(max(1, min(len(data.database) ** 0.5, len(data.train) // 39)))


def _probes(data: Data) -> list[int]:
    return sorted({max(1, _lists(data) // part) for part in (64, 16, 4)})


def points(data: Data, sizes: list[int], names: list[str]) -> list[Point]:
    found: list[Point] = []
    for name in names:
        for size in sizes if name in CODES else [0]:
            started = time.monotonic()
            found += CODES[name](data, size) if name in CODES else WHOLE[name](data)
            log.info("%s, %s %s: built in %.0f s", data.name, name, size or "", time.monotonic() - started)
    return found


def measure(data: Data, contenders: list[Point], threads: list[str], seconds: float) -> list[dict[str, Any]]:
    """A row a point and number of threads."""
    found = [point.rows(data.queries) for point in contenders]
    recalls = [data.recall(rows) for rows in found]
    for point, rows in zip(contenders, found, strict=True):
        single = np.concatenate([point.rows(data.queries[n : n + 1]) for n in range(CHECKED)])
        if np.abs(data.cosines(single) - data.cosines(rows[:CHECKED])).max() > 1e-5:
            raise SdcError(f"{point.made.name}, {point.setting}: other items one by one than together")
    if any(recall < 1 for point, recall in zip(contenders, recalls, strict=True) if point.made.name == "exact"):
        raise SdcError("exact search is not exact: nothing to measure")
    rows = []
    for which in threads:
        times = _singly(data, contenders, seconds) if which == "one" else _together(data, contenders)
        for point, recall, (rate, spread) in zip(contenders, recalls, times, strict=True):
            made = point.made
            rows.append(
                {
                    "set": data.name, "contender": made.name, "setting": point.setting, "code_bytes": made.size,
                    "memory_bytes": made.bytes, "disk_bytes": made.disk, "build_cpu_s": round(made.seconds, 1),
                    "recall@10": round(recall, 4), "threads": which, "queries_a_second": float(f"{rate:.4g}"),
                    "quartiles_ratio": round(spread, 2),
                }
            )  # fmt: skip
    return rows


def _singly(data: Data, contenders: list[Point], seconds: float) -> list[tuple[float, float]]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        timings = time_queries(contenders, data.queries, K, seconds)
    finally:
        os.sched_setaffinity(0, allowed)
    return [_rate((each.encode + each.search) / 1000) for each in timings]


def _together(data: Data, contenders: list[Point]) -> list[tuple[float, float]]:
    taken: list[list[float]] = [[] for _ in contenders]
    with threadpool_limits(cpu_count()):
        for _ in range(ROUNDS):
            for point, times in zip(contenders, taken, strict=True):
                started = time.perf_counter()
                point.rows(data.queries)
                times.append((time.perf_counter() - started) / len(data.queries))
    return [_rate(np.array(times)) for times in taken]


def _rate(seconds: np.ndarray) -> tuple[float, float]:
    """Queries a second, and by how much the upper quartile of the times is above the lower."""
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return float(1 / middle), float(high / low)


def table(rows: list[dict[str, Any]]) -> str:
    """Of each contender how fast it is at the recalls aimed at, and the most it finds."""
    lines = []
    groups = dict.fromkeys((row["set"], row["threads"], row["code_bytes"]) for row in rows)
    for name, threads, size in sorted(groups, key=lambda one: (one[0], one[1], one[2] or 1 << 30)):
        what = f"codes of {size} bytes" if size else "whole vectors"
        lines += [f"### {name}, {threads} thread{'s' * (threads == 'all')}, {what}", ""]
        head = [f"queries/s at {target}" for target in TARGETS]
        lines += [f"| contender | memory | disk | {' | '.join(head)} | most found | at queries/s | build, CPU s |"]
        lines += ["|---" * (6 + len(TARGETS)) + "|"]
        mine = [row for row in rows if (row["set"], row["threads"], row["code_bytes"]) == (name, threads, size)]
        for contender in dict.fromkeys(row["contender"] for row in mine):
            own = [row for row in mine if row["contender"] == contender]
            most = max(own, key=lambda row: (row["recall@10"], row["queries_a_second"]))
            cells = [contender, most["memory_bytes"], most["disk_bytes"], *(_fastest(own, t) for t in TARGETS)]
            cells += [f"{most['recall@10']:.3f}", f"{most['queries_a_second']:,.0f}", f"{most['build_cpu_s']:.0f}"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines.append("")
    return "\n".join(lines)


def _fastest(rows: list[dict[str, Any]], target: float) -> str:
    reached = [row for row in rows if row["recall@10"] >= target]
    if not reached:
        return "—"
    best = max(reached, key=lambda row: row["queries_a_second"])
    return f"{best['queries_a_second']:,.0f} ({best['setting']})".replace(" ()", "")


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """The frontier of one thread: a line a size of codes, whole vectors by all they have in memory."""
    results = []
    for row in rows:
        milliseconds = np.array([1000 / row["queries_a_second"]])
        size, recall = row["code_bytes"], {K: Mean(row["recall@10"], None)}
        latency = Latency.of(0 * milliseconds, milliseconds)
        results.append(
            Result(
                row["contender"], size and 8 * size, bytes=size or row["memory_bytes"], recall=recall, latency=latency
            )
        )
    with atomic_write(path) as temporary:
        draw_frontier(temporary, results, [K])


def clustered(folder: Path, rows: int, dimension: int) -> Path:
    """The feature store of clustered vectors: `rows` in the database, 1000 queries."""
    splits = {
        "train": np.arange(0, rows, max(1, rows // 50_000)),
        "query": np.arange(rows, rows + QUERIES),
        "database": np.arange(rows),
    }
    listing, out = Listing([str(row) for row in range(rows + QUERIES)], splits), folder / "clustered.h5"
    made = blocks(rows + QUERIES, dimension)
    write_features(out, listing, {"source": "import"}, dimension, np.float16, made)
    return out


def sift(folder: Path) -> Path:
    ids, vectors = descriptors(photographs(), faint=True)
    write(folder / "sift-faint.h5", "sift-faint", 50_000, vectors, ids=ids)
    return folder / "sift-faint.h5"


def provenance(names: list[str], missing: list[str]) -> dict[str, Any]:
    versions = {name: importlib.import_module(name).__version__ for name in ("numpy", "faiss")}
    for name in OPTIONAL:
        if name in names:
            versions[name] = importlib.metadata.version(name)
    return {
        "sdc": sdc.__version__, "python": platform.python_version(), **versions, "left out": missing,
        "machine": f"{cpu_count()} processors, {platform.processor() or platform.machine()}",
        "load": round(os.getloadavg()[0], 1), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def installed(names: list[str]) -> tuple[list[str], list[str]]:
    """Contenders that can be measured here, and those whose package is not there."""
    missing = [name for name in names if name in OPTIONAL and importlib.util.find_spec(name) is None]
    return [name for name in names if name not in missing], missing


def split(text: str, known: list[str], option: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"--{option} {unknown[0]}: expected some of {','.join(known)}")
    return names


@click.command(help=__doc__)
@click.option(
    "--features", type=click.Path(path_type=Path, exists=True), help="The set `real`; without, SIFT descriptors."
)
@click.option("--sets", default="real,clustered", show_default=True)
@click.option("--rows", default=1_000_000, show_default=True, help="Clustered vectors.")
@click.option("--dimension", default=128, show_default=True, help="Of clustered vectors.")
@click.option("--bytes", "sizes", default="16,32,64,128", show_default=True)
@click.option("--threads", default="one,all", show_default=True)
@click.option("--contenders", default=",".join([*CODES, *WHOLE]), show_default=True)
@click.option("--queries", default=QUERIES, show_default=True)
@click.option("--steps", default=300, show_default=True, help="Of training for the goal neighbors.")
@click.option("--seconds", default=1.0, show_default=True, help="Of timing, a point, with one thread.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("frontier"), show_default=True)
def main(
    features: Path | None, sets: str, rows: int, dimension: int, sizes: str, threads: str, contenders: str,
    queries: int, steps: int, seconds: float, out: Path,
) -> None:  # fmt: skip
    chosen, which = split(sets, ["real", "clustered"], "sets"), split(threads, ["one", "all"], "threads")
    names = split(contenders, [*CODES, *WHOLE], "contenders")
    lengths = [int(size) for size in split(sizes, ["16", "32", "64", "128"], "bytes")]
    names, missing = installed(names)
    measured, sizes_of = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            path = clustered(Path(folder), rows, dimension) if name == "clustered" else features or sift(Path(folder))
            data = Data.of(name, FeatureStore(path), Path(folder), queries, steps)
            sizes_of.append(
                f"{name}: {path.stem}, {len(data.database):,} × {data.database.shape[1]}, {len(data.train):,} to fit"
            )
            measured += measure(data, points(data, lengths, names), which, seconds)
            one = [row for row in measured if row["set"] == name and row["threads"] == "one"]
            if one:
                draw(out.with_name(f"{out.name}-{name}.png"), one)
    origin = provenance(names, missing)
    write_csv(out.with_suffix(".csv"), [{**row, "provenance": json.dumps(origin)} for row in measured])
    text = "\n".join(["; ".join(sizes_of), "", json.dumps(origin), "", table(measured)])
    click.echo(text)
    with atomic_write(out.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
