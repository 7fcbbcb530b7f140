"""Times of work on a CUDA device: by itself, in a graph that is replayed, and as a loop in Python sees it.

A step of small batches takes the device less time than Python takes to launch it, so a clock around the calls times
Python. Without a device (a dry run) the same functions time the CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Microseconds a call: the median of several rounds, the least and the most."""

    us: float
    us_min: float
    us_max: float

    @staticmethod
    def of(found: list[float]) -> Spread:
        return Spread(*(round(value, 3) for value in (statistics.median(found), min(found), max(found))))


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(run: Run, device: str, repeats: int, rounds: int = 5, copies: int = 1) -> Spread:
    """A call's time, by events of the device; `run` holds so many copies of what is timed. Warmed up first."""
    for _ in range(3 if device == "cuda" else 1):
        run()
    found = []
    for _ in range(rounds):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(repeats):
                run()
            end.record()
            end.synchronize()
            found.append(1e3 * start.elapsed_time(end) / repeats / copies)
        else:
            began = time.perf_counter()
            for _ in range(repeats):
                run()
            found.append(1e6 * (time.perf_counter() - began) / repeats / copies)
    return Spread.of(found)


def seen_by_python(run: Run, device: str, repeats: int) -> dict[str, float]:
    """Microseconds a call until the calls return (`host_us`), and until the device is done (`wall_us`)."""
    run()
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    returned = time.perf_counter()
    wait(device)
    done = time.perf_counter()
    return {
        "host_us": round(1e6 * (returned - began) / repeats, 1),
        "wall_us": round(1e6 * (done - began) / repeats, 1),
    }


def graphed(run: Run, device: str, copies: int = 1) -> Run:
    """The replay of a graph that holds `run` so many times; on a CPU as many plain calls."""
    if device != "cuda":

        def plain() -> None:
            for _ in range(copies):
                run()

        return plain
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            run()
    return graph.replay
