"""A hundred million vectors encoded and searched by the commands, within 3 GB of memory.

    python bench/scale_bench.py [--count 100000000] [--memory 3] [--folder .]

Vectors of 8 float16 values, made from a seed, are imported, and a head of 64 bits is made of them. Then `sdc encode`
and `sdc search` run in a control group that may hold --memory GB, cached files included (where one can be made).
Sampled codes have to be those that the model makes, and the neighbours those of brute force, before anything is
printed. It takes 60 bytes of disk a vector in --folder, for the time of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from disk_bench import capped

from sdc.devices import cpu_count
from sdc.extract.store import FeatureStore
from sdc.retrieve import hamming, pack
from sdc.retrieve.index import Index
from sdc.train import Model

DIMENSION, BLOCK = 8, 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000_000)
    parser.add_argument("--memory", type=float, default=3.0, help="GB")
    parser.add_argument("--folder", default=".")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name, capped(options.memory * 1e9) as group:
        folder = Path(name)
        write(folder / "vectors.npy", options.count)
        took = {
            "import": command(folder, "import", "vectors.npy"),
            "train": command(folder, "train", "--method", "lsh"),
        }
        (folder / "vectors.npy").unlink()
        took["encode"] = command(folder, "encode", "--json", group=group)
        asked = [argument for row in (0, options.count // 3, options.count - 1) for argument in ("--id", str(row))]
        took["search"] = command(folder, "search", "--json", *asked, group=group)
        check(folder, options.count, took["search"].answer["results"])
        size = (folder / "db.bin").stat().st_size / options.count
    cap = (
        f"in {options.memory:g} GB, cached files included" if group else "not capped: no control group can be made here"
    )
    print(
        f"{options.count} codes of 64 bits, {size:.1f} bytes each in db.bin; {cpu_count()} CPUs, {platform.machine()}"
    )
    for each, ran in took.items():
        print(f"  sdc {each:6} {ran.seconds:7.1f} s, at most {ran.memory:.2f} GB of its own memory"
              f"{f' ({cap})' if each in ('encode', 'search') else ''}")  # fmt: skip
    missed = [each for each in ("encode", "search") if took[each].memory > options.memory]
    print("every bar is met" if not missed else f"MISSED: {', '.join(missed)} took more than {options.memory:g} GB")
    return int(bool(missed))


def write(path: Path, count: int) -> None:
    vectors = np.lib.format.open_memmap(path, "w+", np.float16, (count, DIMENSION))
    for start in range(0, count, BLOCK):
        part = vectors[start : start + BLOCK]
        part[:] = np.random.default_rng(start).standard_normal(part.shape, np.float32)
    vectors.flush()


class Ran(NamedTuple):
    """A command that has ended: seconds, the most of its own memory in GB, and the JSON that it printed, if any."""

    seconds: float
    memory: float
    answer: Any


def command(folder: Path, *arguments: str, group: Path | None = None) -> Ran:
    """Runs `sdc`, in a control group if one is given."""
    enter = None if group is None else lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    start, most = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as messages:
        line = [sys.executable, "-m", "sdc", *arguments]
        process = subprocess.Popen(line, cwd=folder, stdout=out, stderr=messages, preexec_fn=enter)
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        if process.returncode:
            messages.seek(0)
            raise RuntimeError(f"sdc {' '.join(arguments)} ended with {process.returncode}: {messages.read()[-1000:]}")
        out.seek(0)
        text = out.read()
    return Ran(seconds, most, json.loads(text) if "--json" in arguments else None)


def check(folder: Path, count: int, results: list[dict[str, Any]]) -> None:
    """Raises AssertionError unless sampled codes are those of the model, and the distances those of brute force."""
    index, model = Index.open(folder / "db.bin", verify=False), Model.load(folder / "model.safetensors")
    assert index.ntotal == count
    rows = np.unique(np.random.default_rng(0).integers(0, count, 10_000))
    store = FeatureStore(folder / "feats.h5", verify=False)
    assert (index.codes(rows) == pack(model.outputs(store.take(rows)))).all(), "other codes than the model makes"
    for result in results:
        code = index.codes(np.array([int(result["query"])]))
        near = [(near["distance"], near["row"]) for near in result["neighbors"]]
        expected: list[tuple[int, int]] = []
        for start in range(0, count, 10_000_000):
            distances = hamming(code, index.database.codes[start : start + 10_000_000])[0]
            places = np.argsort(distances, kind="stable")[: len(near)]
            expected += zip(distances[places].tolist(), (places + start).tolist(), strict=True)
        assert near == sorted(expected)[: len(near)], "other neighbours than brute force finds"


def anonymous(process: int) -> float:
    """GB of memory of a process that are no mapped file's; 0 where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main())
