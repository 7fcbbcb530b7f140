"""How many of the nearest neighbours codes keep, read by Hamming distance and with the query in float, in one run.

    python bench/neighbors_bench.py --features text.h5 --features sift.h5 --bits 64 --seeds 3

The features' files are those of bench/embedding_sets.py and of `sdc extract`. 1000 random rows are the queries, all
others the database, on which everything is fitted; labels are not looked at. Recall@10 is of the exact neighbours by
cosine, expected over random orders of ties. Bytes are counted in full: codes of M bytes have one more for the decoded
vector's length where a query in float is compared with them, and so have RQ and LSQ; OPQ has M + 1 sub-quantizers.

    ours     `--goal neighbors` with each --search-by, codes as `sdc encode` writes them
    itq      ITQ; with the query in float by byte tables fitted to its codes
    sign     the signs of the first dimensions, as many as bits; the query in float as for itq
    opq      FAISS' OPQ, the better of 8 dimensions a sub-quantizer and of all
    rq, lsq  FAISS' residual and local-search quantizers
    rabitq   FAISS' RaBitQ of as many bits, on randomly turned principal axes; 8 bytes of factors come on top

A finished cell is kept in --work and not computed again. --held-out scores on 1000 database rows in the queries' place,
which the fitting does not see: for choosing settings.
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

import sdc
from sdc.arrays import unit_rows
from sdc.extract.store import FeatureStore
from sdc.train import ByteTables, fit_code_tables, make_recipe
from sdc.train.fit_tables import DIALS

K, QUERIES = 10, 1000
DASH = "—"


def recall(scores: np.ndarray, nearest: np.ndarray) -> float:
    """The expected share of the K nearest (Q, K) among the K highest scores (Q, N), ties in random order."""
    found = 0.0
    for row, near in zip(scores, nearest, strict=True):
        last = np.partition(row, len(row) - K)[len(row) - K]
        above, tied = (row > last).sum(), (row == last).sum()
        found += (row[near] > last).sum() + (row[near] == last).sum() * (K - above) / tied
    return float(found / nearest.size)


def signs(codes: np.ndarray) -> np.ndarray:
    return np.where(np.unpackbits(codes, axis=1), np.float32(1), np.float32(-1))


def readings(
    codes: np.ndarray, query_codes: np.ndarray, decoder: ByteTables | None, queries: np.ndarray, nearest: np.ndarray
) -> dict[str, float]:
    """Recall by Hamming distance and, with a decoder, of the query in float; how many codes differ."""
    result = {"hamming": recall(signs(query_codes) @ signs(codes).T, nearest), "unique": len(np.unique(codes, axis=0))}
    ones = np.unpackbits(codes, axis=1).mean(axis=0)
    result["dead bits"] = int(((ones < 0.01) | (ones > 0.99)).sum())
    if decoder is not None:
        scores = decoder.scores(queries, codes, decoder.lengths(codes))
        some = decoder.decode(codes[:100])
        cosines = unit_rows(queries[:3], np.float64) @ (some / np.linalg.norm(some, axis=1, keepdims=True)).T
        assert np.abs(scores[:3, :100] - cosines).max() < 0.02, "scores by look-up differ from the decoded vectors'"
        result["float"] = recall(scores, nearest)
    return result


def ours(search_by: str) -> Callable[..., dict[str, float]]:
    def run(database: np.ndarray, queries: np.ndarray, nearest: np.ndarray, bits: int, seed: int) -> dict[str, float]:
        started, spent = time.monotonic(), time.process_time()
        hasher = sdc.Hasher(bits=bits, goal="neighbors", search_by=search_by, seed=seed).fit(database)
        trained = {"seconds": time.monotonic() - started, "cpu": time.process_time() - spent}
        started = time.monotonic()
        codes = hasher.encode(database)
        microseconds = 1e6 * (time.monotonic() - started) / len(database)
        some = np.random.default_rng(seed).permutation(len(database))[:77]
        assert (hasher.encode(database[some]) == codes[some]).all(), "other codes in another block"
        tables = hasher.model.tables
        assert tables is not None
        scores = readings(codes, hasher.encode(queries, query=True), tables.decoder, queries, nearest)
        return {**scores, **trained, "microseconds": microseconds}

    return run


def closed_form(method: str) -> Callable[..., dict[str, float]]:
    def run(database: np.ndarray, queries: np.ndarray, nearest: np.ndarray, bits: int, seed: int) -> dict[str, float]:
        database, queries = unit_rows(database, np.float32), unit_rows(queries, np.float32)
        hasher = sdc.Hasher(bits=bits, method=method, seed=seed).fit(database)
        tables = fit_code_tables(
            hasher.outputs, database, np.arange(len(database)), make_recipe(bits=bits, tables=True, seed=seed)
        )
        assert tables is not None
        return readings(hasher.encode(database), hasher.encode(queries), tables.decoder, queries, nearest)

    return run


def quantizer(kind: str) -> Callable[..., dict[str, float]]:
    def run(database: np.ndarray, queries: np.ndarray, nearest: np.ndarray, bits: int, seed: int) -> dict[str, float]:
        import faiss

        x, q = unit_rows(database, np.float32), unit_rows(queries, np.float32)
        mean, m = x.mean(axis=0), bits // 8
        started = time.monotonic()

        def score(decoded: np.ndarray) -> float:
            full = decoded + mean
            return recall(q @ (full / np.linalg.norm(full, axis=1, keepdims=True)).T, nearest)

        if kind == "opq":
            best = 0.0
            for width in sorted({8 * (m + 1), x.shape[1] // (m + 1) * (m + 1)}):
                if width > x.shape[1]:
                    continue
                index = faiss.index_factory(x.shape[1], f"OPQ{m + 1}_{width},PQ{m + 1}x8")
                index.train(x - mean)
                best = max(best, score(index.sa_decode(index.sa_encode(x - mean))))
            return {"float": best, "seconds": time.monotonic() - started}
        if kind == "rabitq":
            turn = faiss.PCAMatrix(x.shape[1], bits, 0, True)
            turn.train(x - mean)
            index = faiss.IndexRaBitQ(bits, faiss.METRIC_L2)
            index.train(turn.apply(x - mean))
            index.add(turn.apply(x - mean))
            distances, found = index.search(turn.apply(q - mean), len(x))
            scores = np.empty((len(q), len(x)), np.float32)
            np.put_along_axis(scores, found, -distances, axis=1)
            return {"float": recall(scores, nearest), "seconds": time.monotonic() - started}
        additive = (faiss.ResidualQuantizer if kind == "rq" else faiss.LocalSearchQuantizer)(x.shape[1], m, 8)
        additive.train(x - mean)
        value = score(additive.decode(additive.compute_codes(x - mean)))
        return {"float": value, "seconds": time.monotonic() - started}

    return run


CONTENDERS: dict[str, Callable[..., dict[str, float]]] = {
    **{method: closed_form(method) for method in ("itq", "sign")},
    **{f"ours, {name}": ours(name) for name in DIALS},
    **{kind: quantizer(kind) for kind in ("opq", "rq", "lsq", "rabitq")},
}
ONE_SEED = ("opq", "rq", "lsq", "rabitq", "sign")  # which draw nothing, or FAISS' own numbers


def split(path: Path, *, held_out: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """database (N, d), queries (Q, d) and the queries' exact nearest rows (Q, K)."""
    features = np.asarray(FeatureStore(path).features, np.float32)
    order = np.random.default_rng(7).permutation(len(features))
    if held_out:
        order = order[QUERIES:]
    queries, database = features[order[:QUERIES]], features[np.sort(order[QUERIES:])]
    cosines = unit_rows(queries, np.float64) @ unit_rows(database, np.float64).T
    return database, queries, np.argsort(-cosines, axis=1, kind="stable")[:, :K]


def table(rows: list[dict], bits: list[int]) -> str:
    lines = []
    sets = list(dict.fromkeys(row["set"] for row in rows))
    for length in bits:
        head = [f"{length} bits", *(f"{name}: Hamming / float" for name in sets), "unique codes", "train s", "µs"]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name in dict.fromkeys(row["contender"] for row in rows):
            cells, last = [name], {}
            for one in sets:
                mine = [r for r in rows if (r["set"], r["contender"], r["bits"]) == (one, name, length)]
                cells.append(" / ".join(spread([r[key] for r in mine if key in r]) for key in ("hamming", "float")))
                last = mine[-1] if mine else last
            cells += [f"{last[key]:.0f}" if key in last else DASH for key in ("unique", "seconds", "microseconds")]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    if not values:
        return DASH
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


@click.command()
@click.option("--features", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option("--bits", default="64", help="Lengths, e.g. 64,128.")
@click.option("--seeds", default=3)
@click.option("--contenders", default=",".join(CONTENDERS).replace("ours, ", "ours-"), help="Some of them.")
@click.option("--held-out", is_flag=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("neighbors-bench"))
@click.option("--out", type=click.Path(path_type=Path), help="A Markdown file.")
def main(
    features: tuple[Path, ...], bits: str, seeds: int, contenders: str, held_out: bool, work: Path, out: Path | None
) -> None:
    work.mkdir(exist_ok=True)
    rows, lengths = [], [int(length) for length in bits.split(",")]
    names = [name.replace("ours-", "ours, ") for name in contenders.split(",")]
    for seed in range(seeds):
        for path in features:
            data = None
            for length in lengths:
                for name in names:
                    if seed and name in ONE_SEED:
                        continue
                    cell = {"set": path.stem, "contender": name, "bits": length, "seed": seed, "held_out": held_out}
                    kept = work / ("-".join(map(str, cell.values())).replace(", ", "-") + ".json")
                    if not kept.exists():
                        data = data or split(path, held_out=held_out)
                        kept.write_text(json.dumps({**cell, **CONTENDERS[name](*data, length, seed)}))
                    rows.append(json.loads(kept.read_text()))
                    click.echo(json.dumps(rows[-1]), err=True)
    text = (
        f"sdc {sdc.__version__}, Python {platform.python_version()}, {platform.processor() or platform.machine()}; "
        f"recall@{K}, mean ± sd of {seeds} seeds{', on held-out database rows' if held_out else ''}\n\n"
        + table(rows, lengths)
    )
    click.echo(text)
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
