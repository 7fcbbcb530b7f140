"""Threads that share out independent pieces of work, the caller's among them."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from sdc.devices import cpu_count

T = TypeVar("T")


def faiss_module() -> Any:
    """FAISS, imported when it is first needed.

    Its OpenMP threads sleep while they wait (`sdc.devices.wait_passively`), unless another library started OpenMP
    before: searches use no threads but those of `run_parallel`.
    """
    import faiss

    return faiss


def run_parallel(tasks: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """The results of tasks that let go of the GIL, run by at most `threads` threads.

    The caller works too and depends on nobody: it waits for no thread that hasn't begun, and what another took but
    does not finish in good time, it does again. Where other processes keep the cores busy, a thread may stand still
    in the middle of a task for longer than all the tasks take.

    Args:
        tasks: functions of no side effects. One may run twice, and go on after the call has returned: what it reads
            must not change afterwards.
    """
    if threads == 1:
        with _one_openmp_thread():
            return [task() for task in tasks]
    results: dict[int, T] = {}
    waiting = deque(enumerate(tasks))

    def work() -> int:
        done = 0
        while True:
            try:
                number, task = waiting.popleft()
            except IndexError:
                return done
            results[number] = task()
            done += 1

    helpers = [_pool().submit(work) for _ in range(min(threads, len(tasks)) - 1)]
    start = time.perf_counter()
    with _one_openmp_thread():
        try:
            mine = work()
        finally:
            waiting.clear()  # after an error, or Ctrl-C, nobody begins another
            running = [helper for helper in helpers if not helper.cancel()]
        if len(results) < len(tasks):
            wait(running, (time.perf_counter() - start) / max(mine, 1))  # as long as a task takes
        for number, task in enumerate(tasks):
            if number not in results:
                results[number] = task()
    return [results[number] for number in range(len(tasks))]


_pools: dict[str, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    # setdefault: two threads may come here at once; an executor without work has no threads.
    return _pools.get("one") or _pools.setdefault(
        "one", ThreadPoolExecutor(max(cpu_count() - 1, 1), "sdc-search", lambda: faiss_module().omp_set_num_threads(1))
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


@contextlib.contextmanager
def _one_openmp_thread() -> Iterator[None]:
    """The number is the calling thread's own."""
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
