"""Training steps a second from a file larger than memory, beside those from an array in memory.

    python bench/disk_bench.py [--rows 10000000] [--dimension 512] [--memory 2.5] [--repeats 3] [--folder .]

Three settings in turn, each in a process of its own, with the default preset's steps: float16 features as an array in
memory (500,000 rows); the file with all rows, read before, so that it is in the page cache where it fits; the file,
not read before, in a control group that may hold --memory GB, page cache included. Before the rate counts, the
batches must be the file's rows, and each row may come once only. Medians of the ratios to the array in memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np

CHECKED, STEPS = 600, 4000  # first steps, whose batches are checked; steps that are timed


def write(path: Path, rows: int, dimension: int) -> None:
    block = np.random.default_rng(0).standard_normal((50_000, dimension), dtype=np.float32).astype(np.float16)
    with path.open("wb") as file:
        for start in range(0, rows, len(block)):
            block[:, 0] = np.arange(start, start + len(block)) % 2048  # exact in float16
            file.write(block[: rows - start].data)
        file.flush()
        os.fsync(file.fileno())


def measure(path: Path, rows: int, dimension: int, in_memory: bool, group: Path | None) -> float:
    """Steps a second."""
    if group:
        (group / "cgroup.procs").write_text(str(os.getpid()))
    from sdc.train import make_recipe
    from sdc.train.loop import batches, fitting

    class Measured(Exception):  # noqa: N818
        pass

    class Timed(batches.Batches):
        taken, started, seen = 0, 0.0, np.zeros(rows, bool)

        def epoch(self, epoch: int, step: int = 0) -> Generator[batches.Batch]:
            with contextlib.closing(super().epoch(epoch, step)) as found:
                for batch in found:
                    if self.taken < CHECKED:
                        if self.seen[batch.rows].any() or (batch.features[:, 0] != batch.rows % 2048).any():
                            raise RuntimeError("the batches are not the file's rows, each once: nothing to measure")
                        self.seen[batch.rows] = True
                    elif self.taken == CHECKED:
                        self.started = time.perf_counter()
                    elif self.taken == CHECKED + STEPS:
                        raise Measured(STEPS / (time.perf_counter() - self.started))
                    self.taken += 1
                    yield batch

    fitting.Batches = Timed  # type: ignore[misc]
    features: np.ndarray = np.memmap(path, np.float16, "r", shape=(rows, dimension))
    if in_memory:
        rows = min(rows, 500_000)
        features = np.array(features[:rows])
    try:
        fitting.fit(features, np.arange(rows), make_recipe(epochs=1000, patience=0), device="cpu")
    except Measured as measured:
        return float(measured.args[0])
    raise RuntimeError(f"{rows} rows are too few for {STEPS} steps: give more --rows")


@contextlib.contextmanager
def capped(size: float) -> Iterator[Path | None]:
    """A control group that may hold so many bytes; None where none can be made."""
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, place in own:
        root = Path("/sys/fs/cgroup", controllers)  # version 2 has no controllers there
        limit = {"memory": "memory.limit_in_bytes", "": "memory.max"}.get(controllers)
        group = root / place.lstrip("/") / f"disk-bench-{os.getpid()}"
        if limit is None:
            continue
        try:
            group.mkdir()
            (group / limit).write_text(str(int(size)))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group
        finally:
            for _ in range(50):  # its last process leaves it a moment after its end
                with contextlib.suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.1)
        return
    yield None


@click.command(help=__doc__)
@click.option("--rows", default=10_000_000, show_default=True)
@click.option("--dimension", default=512, show_default=True)
@click.option("--memory", default=2.5, show_default=True, help="GB that the control group may hold.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--folder", default=".", show_default=True, help="Where the file is made, for the time of the run.")
def main(rows: int, dimension: int, memory: float, repeats: int, folder: str) -> None:
    rates: dict[str, list[float]] = {"array in memory": [], "file in the page cache": [], "file, capped": []}
    with tempfile.TemporaryDirectory(dir=folder) as name, capped(memory * 1e9) as group:
        path = Path(name) / "features"
        write(path, rows, dimension)
        for _ in range(repeats):
            for setting, found in rates.items():
                limit = group if "capped" in setting else None
                if "capped" in setting and group is None:
                    continue
                with path.open("rb") as file:
                    if limit:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    elif "cache" in setting:
                        while file.read(1 << 24):
                            pass
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    job = pool.submit(measure, path, rows, dimension, "array" in setting, limit)
                    found.append(job.result())
    click.echo(f"{rows} × {dimension} float16 ({rows * dimension * 2e-9:.1f} GB); {platform.machine()}")
    for setting, found in rates.items():
        if not found:
            click.echo(f"{setting:24} not measured: no control group can be made here")
            continue
        ratios = [a / b for a, b in zip(found, rates["array in memory"], strict=True)]
        click.echo(
            f"{setting:24} {statistics.median(found):6.1f} steps a second; "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
