"""The parts of gpu_check.py, which starts each in a process of its own: `gpu_parts.py PART`.

Where something is missing a part keeps a line with `skipped`. In a dry run all is tiny and on the CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from gpu_timing import Run, Spread, graphed, seen_by_python, timed, wait
from torch import Tensor

from sdc.kernels import Loss, calibration_loss, sample_length

OUT = Path(os.environ["SDC_GPU_OUT"])
DRY = os.environ.get("SDC_GPU_DRY") == "1"
DEVICE = "cpu" if DRY else "cuda"
SIZES = [(b, d, 64) for d in (512, 2048) for b in (256, 1024, 4096, 8192)] + [(16384, 512, 64)]
HALVES = [(256, 2048, 64), (4096, 2048, 64), (8192, 2048, 64)]
TINY = [(32, 24, 16)]
EAGER_MOST = 8192  # rows: above, eager's matrices take tens of gigabytes
GRAM, ROW_SORT, BACKWARD = "gram_kernel", "row_sort_kernel", "backward_kernel"


def put(part: str, **row: object) -> None:
    """Keeps one finding at once, and prints it."""
    line = json.dumps({"part": part, **({"dry": True} if DRY else {}), **row})
    print(line, flush=True)
    with open(OUT / "gpu.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def problem(b: int, d: int, k: int, dtype: torch.dtype, pairs: str = "rows") -> tuple[Tensor, Tensor, Tensor]:
    """Clustered unit rows, raw outputs, uniform quantiles."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, d, generator=generator)[torch.randint(20, (b,), generator=generator)]
    x = torch.nn.functional.normalize((torch.randn(b, d, generator=generator) + centres).relu())
    z = torch.randn(b, k, generator=generator)
    q = torch.linspace(-0.6, 0.6, sample_length(b, pairs))
    return x.to(DEVICE, dtype), z.to(DEVICE).requires_grad_(), q.to(DEVICE)


def step_of(implementation: str, x: Tensor, z: Tensor, q: Tensor, pairs: str = "rows") -> Callable[[], Loss]:
    def step() -> Loss:
        z.grad = None
        loss = calibration_loss(x, z, q, pairs=pairs, implementation=implementation)
        loss.total.backward()
        return loss

    return step


@contextmanager
def in_tf32(wanted: bool) -> Iterator[None]:
    """Products in TF32 meanwhile, in both passes, or in float32."""
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "tf32" if wanted else "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before


def on_device(run: Run, repeats: int, copies: int = 1) -> Spread:
    """`timed`, of few calls in a dry run."""
    return timed(run, DEVICE, 1, 1, copies) if DRY else timed(run, DEVICE, repeats, copies=copies)


def as_python_sees(run: Run, repeats: int) -> dict[str, float]:
    return seen_by_python(run, DEVICE, 1 if DRY else repeats)


def free() -> None:
    if not DRY:
        torch.cuda.empty_cache()


# The parts.


def env() -> None:
    """Versions and the device; copies, products and launches, which the others' figures are held against."""
    row: dict[str, object] = {"commit": _commit(), "python": platform.python_version()}
    row |= {"torch": torch.__version__, "numpy": np.__version__, "kernel": platform.release(), "cpus": os.cpu_count()}
    for name in ("triton", "faiss", "timm"):
        found = importlib.util.find_spec(name)
        row[name] = getattr(__import__(name), "__version__", "?") if found else None
    row["gxx"] = shutil.which("g++")
    if DRY:
        put("env", **row)
        return
    fields = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,ecc.mode.current"
    row["smi"] = _output(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"])
    device = torch.cuda.get_device_properties(0)
    row |= {"gpu": device.name, "processors": device.multi_processor_count, "memory": device.total_memory}
    put("env", **row)
    a, b = (torch.empty(1 << 31, dtype=torch.uint8, device="cuda") for _ in range(2))
    copied = timed(lambda: b.copy_(a), "cuda", 10)
    put("env", what="copy on the device", tb_s=round(2 * 2**31 / copied.us / 1e6, 3), **asdict(copied))
    del a, b
    for name, dtype in (("bfloat16", torch.bfloat16), ("tf32", torch.float32)):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        with in_tf32(True):
            taken = timed(functools.partial(torch.mm, a, b), "cuda", 5)
        put("env", what=f"product of 8192, {name}", tflop_s=round(2 * 8192**3 / taken.us / 1e6, 1), **asdict(taken))
    one = torch.zeros(1, device="cuda")
    launched = timed(lambda: one.add_(1), "cuda", 500)
    put("env", what="shortest kernel, launched", **asdict(launched), **seen_by_python(lambda: one.add_(1), "cuda", 500))
    in_graph = timed(graphed(lambda: one.add_(1), "cuda", 100), "cuda", 10, copies=100)
    put("env", what="shortest kernel, in a graph", **asdict(in_graph))


def tests() -> None:
    """The GPU tests, a pytest a file, since a file that can't be collected would end the other too."""
    files = {"kernels": "tests/kernels/test_triton_device.py", "extract": "tests/extract/test_extract.py"}
    for name, file in files.items():
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", file]
        if DRY and name == "kernels":
            command += ["-k", "same_bits or real_valued"]
        elif name == "kernels" and importlib.util.find_spec("xdist"):
            command += ["-n", "8"]  # compiling is what takes the time
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        with open(OUT / "tests.txt", "a", encoding="utf-8") as kept:
            kept.write(done.stdout + done.stderr[-4000:])
        lines = done.stdout.splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        put("tests", which=name, code=done.returncode, seconds=round(time.perf_counter() - began, 1), last=lines[-1:],
            failed=failed[:40])  # fmt: skip


def kernels() -> None:
    """Each kernel alone: the launches of a step are recorded, then each is repeated in a graph of its own."""
    from sdc.kernels.gpu import model, ops

    copies = 1 if DRY else 20
    cases = [("rows", size) for size in (TINY if DRY else SIZES)] + [("halves", s) for s in (TINY if DRY else HALVES)]
    for pairs, (b, d, k) in cases:
        for dtype in (torch.float32, torch.float16):
            x, z, q = problem(b, d, k, dtype, pairs)
            step = step_of("triton", x, z, q, pairs)
            began = time.perf_counter()
            step()
            wait(DEVICE)
            first = time.perf_counter() - began
            launch, recorded = ops._launch, []
            ops._launch = lambda *arguments, launch=launch, recorded=recorded: (
                recorded.append(arguments), launch(*arguments),
            )  # fmt: skip
            try:
                step()
            finally:
                ops._launch = launch
            moved = model.fused_bytes(b, d, k, 8 * x.element_size()) if pairs == "rows" else {}
            parts = {GRAM: "gram", ROW_SORT: "row sort", BACKWARD: "backward"}
            for chosen, grid, *arguments in recorded:
                name = chosen.kernel.__name__
                replay = graphed(functools.partial(launch, chosen, grid, *arguments), DEVICE, copies)
                taken = on_device(replay, 10, copies)
                rate = {"gb_s": round(moved[parts[name]] / taken.us / 1e3)} if name in parts and moved else {}
                put("kernels", pairs=pairs, B=b, d=d, K=k, dtype=str(dtype), kernel=name, grid=list(grid),
                    warps=chosen.warps, first_step_s=round(first, 2), **asdict(taken), **rate)  # fmt: skip
            free()


def step() -> None:
    """Forward and backward: compared first, then in a graph (the device alone) and launched from Python."""
    cases = [("rows", size) for size in (TINY if DRY else SIZES)] + [("halves", s) for s in (TINY if DRY else HALVES)]
    for pairs, (b, d, k) in cases:
        x, z, q = problem(b, d, k, torch.float32, pairs)
        wanted: tuple[float, Tensor] | None = None
        for name in ("eager", "eager tf32", "triton", "triton tf32"):
            if b > EAGER_MOST and name.startswith("eager"):
                continue
            with in_tf32(name.endswith("tf32")):
                run = step_of(name.split()[0], x, z, q, pairs)
                before = 0 if DRY else torch.cuda.memory_allocated()
                if not DRY:
                    torch.cuda.reset_peak_memory_stats()
                loss = run()
                found = loss.calibration.item(), z.grad.clone()
                wanted = wanted or found
                mib = 0 if DRY else (torch.cuda.max_memory_allocated() - before) / 2**20
                seen = as_python_sees(run, 30)
                alone = on_device(graphed(run, DEVICE), 30 if b < 4096 else 10)
            far = float((found[1] - wanted[1]).norm() / wanted[1].norm())
            put("step", pairs=pairs, B=b, d=d, K=k, implementation=name, loss_off=abs(found[0] - wanted[0]),
                gradient_off=far, mib=round(mib, 1), **asdict(alone), **seen)  # fmt: skip
        free()


def train() -> None:
    """The loop of `sdc train`: milliseconds a step on the device and on the CPU, and both losses."""
    from sdc.train import make_recipe
    from sdc.train.loop import fit

    rows, dimension = (600, 32) if DRY else (50_000, 1280)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, dimension))[rng.integers(20, size=rows)]
    features = np.maximum(centres + rng.standard_normal((rows, dimension)), 0).astype(np.float16)
    start = {"space": "raw", "init": "random", "head": "mlp", "patience": 0, "lr": 1e-4}
    for preset in ("default", "paper-code"):
        recipe = make_recipe(preset, bits=64, epochs=1, **start)
        for where, share in (("cpu", 8), (DEVICE, 8), (DEVICE, 1)):
            few = features[: len(features) // share]
            began = time.perf_counter()
            _, told = fit(few, np.arange(len(few)), recipe, device=where)
            wait(DEVICE)
            seconds = time.perf_counter() - began
            put("train", preset=preset, device=where, rows=len(few), steps=told["steps"], loss=told["loss"],
                ms_a_step=round(1e3 * seconds / max(told["steps"], 1), 3), seconds=round(seconds, 2))  # fmt: skip


def search() -> None:
    """FAISS' binary index on the device: equal to the CPU first, then timed."""
    if importlib.util.find_spec("faiss") is None:
        put("search", skipped="there is no FAISS")
        return
    from sdc.kernels import hamming_nearest
    from sdc.retrieve.index import faiss_module

    if not DRY and not faiss_module().get_num_gpus():
        put("search", skipped="this FAISS sees no GPU")
        return
    rng = np.random.default_rng(0)
    for count in (5000,) if DRY else (1_000_000, 10_000_000, 100_000_000):
        codes = rng.integers(0, 2**63, count, dtype=np.int64).view(np.uint8).reshape(-1, 8)
        queries = rng.integers(0, 256, (1024, 8), dtype=np.uint8)
        on_cpu = timed(functools.partial(hamming_nearest, queries[:32], codes, 10), "cpu", 1)
        put("search", codes=count, what="CPU, one thread, 32 queries", **asdict(on_cpu))
        if not DRY:
            _search_on_device(codes, queries)


def _search_on_device(codes: np.ndarray, queries: np.ndarray) -> None:
    from sdc.kernels import hamming_nearest
    from sdc.retrieve.index.gpu import Gpus

    began = time.perf_counter()
    gpus = Gpus(codes, 1)
    put("search", codes=len(codes), what="copied to the device", seconds=round(time.perf_counter() - began, 2))
    for k in (10, 100):
        near, places, settled = gpus.search(queries[:64], k)
        wanted = hamming_nearest(queries[:64][settled][:8], codes, k) if settled.any() else None
        found = near[settled][:8], places[settled][:8]
        equal = None if wanted is None else all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
        for number in (1, 64, 1024):
            taken = timed(functools.partial(gpus.search, queries[:number], k), "cpu", 1)  # it waits for the device
            put("search", codes=len(codes), bits=64, k=k, queries=number, equal=equal,
                settled=round(float(settled.mean()), 4), g_comparisons_s=round(number * len(codes) / taken.us / 1e3, 1),
                **asdict(taken))  # fmt: skip


def extract() -> None:
    """Images a second of two backbones: the bare forward pass, and through the encoder."""
    from sdc.extract import Encoder
    from sdc.extract.backbones import load_backbone

    for name, weights in (("resnet50", "random:0"), ("efficientnet_lite0", None)):
        try:
            backbone = load_backbone(name, weights, 64 if DRY else 224)
        except Exception as error:  # whatever is missing there, the other backbone can be measured
            put("extract", backbone=name, skipped=str(error)[:200])
            continue
        encoder, size = Encoder(backbone, DEVICE), backbone.image_size
        for batch in (2,) if DRY else (64, 256, 1024):
            pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
            bare = functools.partial(_forward, encoder, encoder.normalised(pixels))
            alone, seen = on_device(bare, 10), as_python_sees(functools.partial(encoder, pixels), 10)
            put("extract", backbone=name, batch=batch, bare_images_s=round(1e6 * batch / alone.us),
                encoder_images_s=round(1e6 * batch / seen["wall_us"]))  # fmt: skip


def _forward(encoder: object, images: Tensor) -> Tensor:
    with torch.inference_mode(), encoder.precision():
        return encoder.module(images)


def compiled() -> None:
    """Eager PyTorch under torch.compile."""
    for b, d, k in TINY if DRY else [(1024, 512, 64), (4096, 512, 64), (4096, 2048, 64)]:
        torch._dynamo.reset()  # else from some number of shapes on it is eager, silently
        x, z, q = problem(b, d, k, torch.float32)

        def total(z: Tensor, x: Tensor = x, q: Tensor = q) -> Tensor:
            return calibration_loss(x, z, q, implementation="eager").total

        function = torch.compile(total, dynamic=False, fullgraph=True, backend="eager" if DRY else "inductor")

        def run(function: Callable[[Tensor], Tensor] = function, z: Tensor = z) -> None:
            z.grad = None
            function(z).backward()

        began = time.perf_counter()
        run()
        wait(DEVICE)
        first = round(time.perf_counter() - began, 1)
        alone, seen = on_device(run, 20), as_python_sees(run, 20)
        put("compiled", B=b, d=d, K=k, compile_s=first, **asdict(alone), **seen)


def sanitizer() -> None:
    """NVIDIA's checks of memory, races and reads of what was not written, at awkward sizes."""
    tool = shutil.which("compute-sanitizer")
    if DRY or tool is None:
        put("sanitizer", skipped="a dry run" if DRY else "there is no compute-sanitizer")
        return
    inner = [sys.executable, __file__, "awkward"]
    subprocess.run(inner, check=True)  # compiles, so that the tools need not
    for name in ("memcheck", "racecheck", "initcheck"):
        kernels = [f"--kernel-name=kernel_substring={part}" for part in (GRAM, ROW_SORT, BACKWARD, "halves")]
        try:
            done = subprocess.run(
                [tool, "--tool", name, "--print-limit", "10", *kernels, *inner],
                capture_output=True,
                text=True,
                timeout=45,
            )
        except subprocess.TimeoutExpired:
            put("sanitizer", tool=name, skipped="it took over 45 s")
            continue
        with open(OUT / "sanitizer.txt", "a", encoding="utf-8") as file:
            file.write(f"== {name}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}\n")
        lines = (done.stdout + done.stderr).splitlines()
        last = [line for line in lines if "ERROR SUMMARY" in line or "Error" in line][-3:]
        put("sanitizer", tool=name, code=done.returncode, last=last)


def awkward() -> None:
    """A step each at sizes that fill no tile; for the sanitizer."""
    for pairs in ("rows", "halves"):
        for b, d, k in ((34, 24, 17), (130, 64, 65), (600, 64, 64)):
            step_of("triton", *problem(b, d, k, torch.float16, pairs), pairs)()
    wait(DEVICE)


def profile() -> None:
    """Nsight Compute's figures of the three kernels."""
    tool = shutil.which("ncu")
    if DRY or tool is None:
        put("profile", skipped="a dry run" if DRY else "there is no ncu")
        return
    names = ("SpeedOfLight", "LaunchStats", "Occupancy", "WarpStateStats", "MemoryWorkloadAnalysis")
    sections = [word for name in names for word in ("--section", name)]
    wanted = ["-k", f"regex:{GRAM}|{ROW_SORT}|{BACKWARD}", "-s", "6", "-c", "3"]
    command = [tool, "--clock-control", "none", *wanted, *sections, sys.executable, __file__, "three_steps"]
    done = subprocess.run(command, capture_output=True, text=True)
    (OUT / "ncu.txt").write_text(done.stdout[-200_000:] + done.stderr[-3000:], encoding="utf-8")
    put("profile", code=done.returncode)


def three_steps() -> None:
    """For the profiler, which looks at the last."""
    run = step_of("triton", *problem(4096, 512, 64, torch.float32))
    for _ in range(3):
        run()
    wait(DEVICE)


def _commit() -> str:
    return _output(["git", "rev-parse", "HEAD"]) or "?"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


PARTS = {
    part.__name__: part
    for part in (env, tests, kernels, step, train, search, extract, compiled, sanitizer, profile, awkward, three_steps)
}

if __name__ == "__main__":
    if not DRY and not torch.cuda.is_available():
        put(sys.argv[1], skipped="PyTorch sees no CUDA device here; --dry tries all on a CPU")
        sys.exit(1)
    PARTS[sys.argv[1]]()
