"""The calibration loss: fused kernels against plain PyTorch, in time and memory.

    python bench/kernel_bench.py              # what this machine has; writes bench/results/kernel_*.csv and .png
    python bench/kernel_bench.py --check      # only compare every implementation with the float64 reference
    python bench/kernel_bench.py --quick      # the sizes of the project's bars only, and a CSV of them

"eager" is one matrix product for each similarity, one torch.sort, one gather, and autograd. With a CUDA device the
Triton kernels run against eager in float32 and in TF32 and against eager under torch.compile. Without one the CPU
kernel runs against eager, and what is known of the Triton kernels without a GPU is printed: their resources, from
compiling them ahead of time, and a model's times, marked "predicted, not measured".

Times are medians, in milliseconds: on a CPU of interleaved runs; on a device of CUDA graphs that are replayed, and
beside them (`wall_ms`) what a loop in Python sees, which at small batches is Python itself. Memory is the peak above
what the inputs take. Nothing is timed before every implementation has given the reference's loss and gradient.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import datetime
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch
from gpu_timing import graphed, seen_by_python, timed
from torch import Tensor

from sdc import __version__
from sdc.kernels import aot, calibration_loss, cpu, functional, reference, sample_length
from sdc.kernels.gpu import model

RESULTS = Path(__file__).parent / "results"
BARS = [(1024, 512, 64), (4096, 512, 64), (4096, 2048, 64)]
GRID = [(b, d, 64) for d in (512, 2048) for b in (64, 128, 256, 512, 1024, 2048, 4096, 8192)]
GRID += [(1024, 512, k) for k in (16, 512)] + [(1024, 4096, 64)]
FIELDS = [
    "device", "implementation", "B", "d", "K", "pass", "ms", "ms_min", "ms_max", "wall_ms", "mib", "gb_s",
    "predicted_ms",
]  # fmt: skip
Run = Callable[[bool], None]


def inputs(b: int, d: int, k: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Clustered unit rows, raw outputs, uniform quantiles of `rows`."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, d, generator=generator)[torch.randint(20, (b,), generator=generator)]
    x = torch.nn.functional.normalize((torch.randn(b, d, generator=generator) + centres).relu())
    z = torch.randn(b, k, generator=generator)
    q = torch.linspace(-0.6, 0.6, sample_length(b, "rows"))
    return x.to(device), z.to(device).requires_grad_(), q.to(device)


def implementations(device: str) -> dict[str, Callable[[Tensor, Tensor, Tensor], functional.Loss]]:
    """By name, what is compared on this device; the first is the one the others are held against."""

    def by(name: str) -> Callable[[Tensor, Tensor, Tensor], functional.Loss]:
        return lambda x, z, q: calibration_loss(x, z, q, implementation=name)

    if device == "cuda":
        torch._dynamo.reset()  # else it compiles no more from some number of shapes on, and runs eager, silently
        compiled = torch.compile(by("eager"), dynamic=False, fullgraph=True)
        plain, ours = by("eager"), by("triton")
        return {"eager": plain, "eager tf32": plain, "compiled": compiled, "triton": ours, "triton tf32": ours}
    found = {"eager": by("eager")}
    if cpu.available():
        found["cpu"] = by("cpu")
    return found | {"auto": lambda x, z, q: calibration_loss(x, z, q)}


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Products in TF32 meanwhile, in both passes, where the name of an implementation says so."""
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "tf32" if name.endswith("tf32") else "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before


def check(device: str) -> None:
    """Every implementation against the float64 plain loops, and against eager at the size of a real batch."""
    for b, d, k in ((64, 48, 24), (33, 17, 65)):
        x, z, q = inputs(b, d, k, device)
        wanted = reference.calibration_loss(x.cpu().numpy(), z.detach().cpu().numpy(), q.cpu().numpy())
        for name, run in implementations(device).items():
            if name.endswith("tf32"):
                continue  # its rounding moves ranks: it is timed, not trusted
            z.grad = None
            loss = run(x, z, q)
            loss.total.backward()
            off = abs(loss.calibration.item() - wanted.calibration) + abs(
                loss.quantization.item() - wanted.quantization
            )
            gradient = torch.from_numpy(wanted.gradient)
            far = float((z.grad.cpu().double() - gradient).norm() / gradient.norm())
            if off > 2e-6 or far > 2e-2:
                raise SystemExit(f"{name} at B={b}: loss off by {off:.1e}, gradient by {far:.1e}; nothing is timed")
    click.echo(f"checked against the float64 reference: {', '.join(implementations(device))}")


def once(run: Callable[..., functional.Loss], x: Tensor, z: Tensor, q: Tensor, backward: bool) -> float:
    """Milliseconds of one forward, or of one forward and backward."""
    z.grad = None
    started = time.perf_counter()
    if backward:
        run(x, z, q).total.backward()
    else:
        with torch.no_grad():
            run(x, z, q)
    if x.is_cuda:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started)


def peak(run: Callable[..., functional.Loss], x: Tensor, z: Tensor, q: Tensor) -> float:
    """MiB that a forward and backward take at most, beyond what was there; NaN where it can't be told."""
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(run, x, z, q, True)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier run freed but kept would hide what this one takes
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status("VmRSS")
        once(run, x, z, q, True)
        return (_status("VmHWM") - before) / 2**10
    except (OSError, AttributeError):
        return float("nan")


def _status(name: str) -> int:
    """A field of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def measure(case: tuple[int, int, int], device: str, seconds: float) -> list[dict]:
    """One row for each implementation and pass; the implementations take turns."""
    b, d, k = case
    x, z, q = inputs(*case, device)
    runs = implementations(device)
    memory = {}
    for name, run in runs.items():
        with precision(name):
            memory[name] = peak(run, x, z, q)
    rows = []
    for backward in (False, True):
        found = on_device(runs, x, z, q, backward) if device == "cuda" else on_cpu(runs, x, z, q, backward, seconds)
        for name, (ms, least, most, wall) in found.items():
            moved = sum(model.eager_bytes(b, d, k).values()) if "triton" not in name else _fused(b, d, k)
            rows.append({
                "device": device, "implementation": name, "B": b, "d": d, "K": k,
                "pass": "step" if backward else "forward", "ms": round(ms, 4), "ms_min": round(least, 4),
                "ms_max": round(most, 4), "wall_ms": wall, "mib": round(memory[name], 1),
                "gb_s": round(moved / ms / 1e6, 1) if backward and device == "cuda" else "",
                "predicted_ms": predicted(name, case) if device == "cuda" and backward else "",
            })  # fmt: skip
    return rows


Implementations = dict[str, Callable[..., functional.Loss]]
Found = dict[str, tuple[float, float, float, float | str]]  # median, least, most, and as Python sees it, milliseconds


def on_cpu(runs: Implementations, x: Tensor, z: Tensor, q: Tensor, backward: bool, seconds: float) -> Found:
    """The implementations take turns, so that a drift of the machine's speed touches all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    while len(times["eager"]) < 4 or (time.perf_counter() - began < seconds and len(times["eager"]) < 200):
        for name, run in runs.items():
            times[name].append(once(run, x, z, q, backward))
    return {name: (statistics.median(t[1:]), min(t[1:]), max(t[1:]), "") for name, t in times.items()}


def on_device(runs: Implementations, x: Tensor, z: Tensor, q: Tensor, backward: bool) -> Found:
    """Each in a graph by itself, then launched from Python."""
    found: Found = {}
    repeats = 30 if len(x) < 4096 else 10
    for name, run in runs.items():

        def step(run: Callable[..., functional.Loss] = run) -> None:
            z.grad = None
            if backward:
                run(x, z, q).total.backward()
            else:
                with torch.no_grad():
                    run(x, z, q)

        with precision(name):
            wall = seen_by_python(step, "cuda", repeats)["wall_us"] / 1e3
            alone = timed(graphed(step, "cuda"), "cuda", repeats)
        found[name] = alone.us / 1e3, alone.us_min / 1e3, alone.us_max / 1e3, round(wall, 4)
    return found


def _fused(b: int, d: int, k: int) -> int:
    return sum(model.fused_bytes(b, d, k, 32).values())


def predicted(name: str, case: tuple[int, int, int]) -> float | str:
    """The model's milliseconds of a step on the chip at hand, where it knows the chip."""
    device = torch.cuda.get_device_name()
    chip = next((chip for label, chip in model.CHIPS.items() if label in device), None)
    if chip is None or name == "compiled":
        return ""
    if name.startswith("triton"):
        cost = aot.sort_cost(chip.capability, case[0])
        return round(1e3 * model.predict_rows(chip, *case, 32, cost, tf32="tf32" in name).step, 4)
    return round(1e3 * model.predict_eager(chip, *case, tf32="tf32" in name).step, 4)


def show(rows: list[dict]) -> None:
    """A table of the steps: milliseconds, speed-up over eager, peak memory."""
    steps = [row for row in rows if row["pass"] == "step"]
    click.echo(f"\n{'B':>6} {'d':>5} {'K':>4}  {'implementation':14} {'ms':>10} {'speed-up':>9} {'peak MiB':>9}")
    for row in steps:
        base = _of(steps, "eager", row)
        click.echo(
            f"{row['B']:6} {row['d']:5} {row['K']:4}  {row['implementation']:14} {row['ms']:10.3f} "
            f"{base['ms'] / row['ms']:8.2f}× {row['mib']:9.1f}"
        )


def _of(rows: list[dict], name: str, like: dict) -> dict:
    same = ("B", "d", "K", "pass")
    return next(r for r in rows if r["implementation"] == name and all(r[f] == like[f] for f in same))


def show_without_gpu() -> None:
    """The Triton kernels' resources by ahead-of-time compilation, and the model's times."""
    click.echo("\nTriton kernels, compiled ahead of time (registers a thread, bytes of shared memory, instructions):")
    wanted = [
        aot.Case(kernel, chip, 1024) for chip in (80, 90, 100, 120) for kernel in ("gram", "row_sort", "backward")
    ]
    costs = {}
    for case, cost in aot.compile_all(wanted):
        costs[case] = cost
        click.echo("  " + aot.describe(case, cost))
    click.echo("\nTimes of a step (forward and backward), predicted, not measured; float16 features, eager in float32:")
    for label, chip in model.CHIPS.items():
        for b in (256, 1024, 4096):
            fused = model.predict_rows(chip, b, 2048, 64, 16, aot.sort_cost(chip.capability, b)).step
            plain = model.predict_eager(chip, b, 2048, 64).step
            click.echo(
                f"  {label} B={b:5} d=2048 K=64: eager {1e3 * plain:8.3f} ms, fused {1e3 * fused:8.3f} ms, "
                f"{plain / fused:4.1f}× (predicted, not measured)"
            )


def write(rows: list[dict], path: Path) -> None:
    """The CSV, headed by where and with what it was measured."""
    device = torch.cuda.get_device_name() if rows[0]["device"] == "cuda" else _processor()
    made = datetime.datetime.now(datetime.timezone.utc).date()
    with open(path, "w", newline="") as file:
        file.write(
            f"# sdc {__version__}, torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {made}\n"
        )
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def plot(rows: list[dict], path: Path) -> None:
    """Speed-up of a step and peak memory over B, at K = 64."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [row for row in rows if row["pass"] == "step" and row["K"] == 64]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for name in dict.fromkeys(row["implementation"] for row in steps):
        for d in sorted({row["d"] for row in steps}):
            line = sorted((r for r in steps if r["implementation"] == name and r["d"] == d), key=lambda r: r["B"])
            if len(line) < 2:
                continue
            sizes = [row["B"] for row in line]
            style = "--" if name.startswith("eager") else "-"
            left.plot(sizes, [_of(steps, "eager", r)["ms"] / r["ms"] for r in line], style, marker="o", ms=3,
                      label=f"{name}, d = {d}")  # fmt: skip
            right.plot(sizes, [max(r["mib"], 0.1) for r in line], style, marker="o", ms=3, label=f"{name}, d = {d}")
    for axes, title in ((left, "Speed of a training step's loss, eager = 1"), (right, "Peak memory of it, MiB")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("batch size B")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    right.set_yscale("log")
    left.legend(fontsize=8)
    figure.savefig(path, dpi=130)


@click.command(help=__doc__)
@click.option("--check", "only_check", is_flag=True, help="Compare with the reference and stop.")
@click.option("--quick", is_flag=True, help="Only the sizes of the project's bars.")
@click.option("--seconds", default=2.0, show_default=True, help="Time for each case and pass, at least 4 runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the CSV and the plot.")
def main(only_check: bool, quick: bool, seconds: float, out: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check(device)
    if only_check:
        return
    rows: list[dict] = []
    for case in BARS if quick else GRID:
        rows += measure(case, device, seconds)
        click.echo(f"measured B={case[0]}, d={case[1]}, K={case[2]}", err=True)
    show(rows)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"kernel_{device}{'_quick' if quick else ''}.csv"
    write(rows, path)
    if not quick:
        plot(rows, path.with_suffix(".png"))
    click.echo(f"\nwritten: {path}{'' if quick else ' and .png'}")
    if device == "cpu":
        show_without_gpu()


if __name__ == "__main__":
    main()
