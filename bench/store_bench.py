"""How fast rows come out of a feature store, against h5py on the same file: random rows and one pass over all.

    python bench/store_bench.py [--rows 200000] [--dimension 512] [--batch 64] [--repeats 7] [--json FILE]

Every way of reading is compared with the array that was written before anything is timed. The file is warm (in the
page cache). Random rows of the store below 500 000 a second are an exit status of 1 (at the default sizes).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from sdc.extract.store import FeatureStore, Listing, default_splits, write_features

BAR = 500_000  # rows a second
RANDOM_BATCHES = 500  # of the store; h5py gets a tenth, it is that much slower


def seconds(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median, fastest and slowest of `repeats` runs after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def by_h5py(path: Path, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Random rows through h5py's fancy indexing, which wants them ascending."""
    with h5py.File(path, "r", locking=False) as file:
        dataset = file["features"]
        for rows in batches:
            order = np.argsort(rows)
            block = np.empty((len(rows), dataset.shape[1]), dataset.dtype)
            block[order] = dataset[rows[order]]
            yield block


def exhaust(blocks: Iterator[np.ndarray]) -> None:
    for _ in blocks:
        pass


def total(blocks: Iterator[np.ndarray]) -> int:
    """The exclusive or of all bytes, eight at a time: touches each of them at memory speed."""
    return reduce(xor, (int(np.bitwise_xor.reduce(block.view(np.uint64).ravel())) for block in blocks))


def slices(array: Any, size: int = 8192) -> Iterator[np.ndarray]:
    for start in range(0, len(array), size):
        yield array[start : start + size]


def whole_by_h5py(path: Path) -> Iterator[np.ndarray]:
    with h5py.File(path, "r", locking=False) as file:
        yield from slices(file["features"])


def measure(folder: Path, rows: int, dimension: int, batch: int, repeats: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    features = random.standard_normal((rows, dimension), dtype=np.float32).astype(np.float16)
    listing = Listing([str(row) for row in range(rows)], default_splits(rows, 0))
    path = folder / "feats.h5"
    start = time.perf_counter()
    write_features(path, listing, {"source": "bench"}, dimension, np.float16, [features])
    writing = time.perf_counter() - start

    store = FeatureStore(path)
    # A batch in training holds no row twice, and h5py takes none twice.
    batches = [random.choice(rows, batch, replace=False) for _ in range(RANDOM_BATCHES)]
    some, every = batches[: RANDOM_BATCHES // 10], np.arange(rows)
    for wanted, ours, theirs in zip(some, map(store.take, some), by_h5py(path, some), strict=True):
        np.testing.assert_array_equal(ours, features[wanted])
        np.testing.assert_array_equal(theirs, features[wanted])
    checked = total(slices(features))
    for blocks in (store.blocks(every), whole_by_h5py(path)):
        assert total(blocks) == checked

    megabytes = features.nbytes / 1e6
    timings = {
        "random rows, take": (len(batches) * batch, "rows/s", lambda: [store.take(rows) for rows in batches]),
        "random rows, h5py": (len(some) * batch, "rows/s", lambda: exhaust(by_h5py(path, some))),
        "one pass, blocks": (megabytes, "MB/s", lambda: total(store.blocks(every))),
        "one pass, h5py": (megabytes, "MB/s", lambda: total(whole_by_h5py(path))),
        "one pass, array in memory": (megabytes, "MB/s", lambda: total(slices(features))),
        "open and verify": (megabytes, "MB/s", lambda: FeatureStore(path)),
    }
    results = {}
    for name, (units, unit, run) in timings.items():
        took = seconds(run, repeats)
        rates = {"median": units / took["median"], "lowest": units / took["max"], "highest": units / took["min"]}
        results[name] = {"unit": unit, **rates}
    rate = megabytes / writing
    results["write, once, synced"] = {"unit": "MB/s", "median": rate, "lowest": rate, "highest": rate}
    return results


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__,
        "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version, "xxhash": xxhash.VERSION,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=512, help="of float16 features, a multiple of 4")
    parser.add_argument("--batch", type=int, default=64, help="rows in a random batch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the file is written for the run (a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = measure(Path(folder), options.rows, options.dimension, options.batch, options.repeats)
    settings = {name: getattr(options, name) for name in ("rows", "dimension", "batch", "repeats")}
    print(" ".join(f"{key}={value}" for key, value in {**machine(), **settings}.items()))
    print(f"{'':28}{'median':>14}{'lowest':>14}{'highest':>14}")
    for name, row in results.items():
        print(f"{name:28}{row['median']:14,.0f}{row['lowest']:14,.0f}{row['highest']:14,.0f} {row['unit']}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "settings": settings, "results": results}, indent=1))
    slow = results["random rows, take"]["median"] < BAR and (options.dimension, options.batch) == (512, 64)
    if slow:
        print(f"below the bar of {BAR:,} random rows a second", file=sys.stderr)
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
