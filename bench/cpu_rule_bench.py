"""Measures the rule `sdc.kernels.cpu.wins`: the CPU kernel against eager over B, d, K, dtype and threads.

    python bench/cpu_rule_bench.py [--quick]

Prints one CSV row a case: medians of interleaved forward + backward runs, their ratio, and what the rule
says. Exits 1 if the implementation the rule picks is anywhere slower than 0.95 x eager. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sdc.kernels import cpu, eager

SECONDS = 0.6  # for each case, at least


def case(size: int, width: int, bits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, width, generator=generator)[torch.randint(20, (size,), generator=generator)]
    features = torch.nn.functional.normalize((torch.randn(size, width, generator=generator) + centres).relu())
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    outputs = torch.randn(size, bits, generator=generator, dtype=exact).requires_grad_()
    return features.to(dtype), outputs, torch.linspace(-0.6, 0.6, size - 1, dtype=exact)


def medians(runs: list[Callable[[], Tensor]], outputs: Tensor) -> list[float]:
    """Milliseconds of forward and backward, the runs taking turns."""
    times: list[list[float]] = [[] for _ in runs]
    began = time.perf_counter()
    while len(times[0]) < 4 or time.perf_counter() - began < SECONDS:
        for run, taken in zip(runs, times, strict=True):
            outputs.grad = None
            start = time.perf_counter()
            run().backward()
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken[1:]) for taken in times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="float32 and the sizes about the crossover only")
    quick = parser.parse_args().quick
    if not cpu.available():
        sys.exit("the CPU kernel cannot be built here")
    sizes = (16, 32, 48, 64, 128, 256) if quick else (2, 8, 16, 32, 48, 64, 96, 128, 256, 512, 1024, 4096, 8192)
    dtypes = (torch.float32,) if quick else (torch.float32, torch.float16, torch.float64)
    most, slow = torch.get_num_threads(), 0
    print("threads,dtype,B,d,K,eager_ms,cpu_ms,ratio,wins")
    for threads, dtype in itertools.product(sorted({1, most}), dtypes):
        torch.set_num_threads(threads)
        for size, width, bits in itertools.product(sizes, (64, 512, 4096), (16, 64, 512)):
            features, outputs, targets = case(size, width, bits, dtype)
            plain, ours = medians(
                [
                    lambda x=features, z=outputs, q=targets: eager.calibration_term(x, z, q, "rows", "l1"),
                    lambda x=features, z=outputs, q=targets: cpu.calibration_rows(x, z, q),
                ],
                outputs,
            )
            chosen = cpu.wins(size)
            slow += chosen and plain < 0.95 * ours
            name = str(dtype).removeprefix("torch.")
            times = f"{plain:.3f},{ours:.3f},{plain / ours:.2f}"
            print(f"{threads},{name},{size},{width},{bits},{times},{chosen}", flush=True)
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
