"""The processors, devices and ranks that this process runs on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sdc.errors import UsageError

if TYPE_CHECKING:
    import torch


def is_main_process() -> bool:
    """Whether this process writes messages: all do but those of torchrun with a rank above 0."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def torch_device(name: str | None) -> torch.device:
    """The device of this name, checked to work; by default CUDA where there is one.

    Raises:
        UsageError: it cannot be used here.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UsageError(f"--device {name}: cannot be used here ({reason}); expected cpu, cuda or cuda:N") from error
    return device


MOST_SEED = 2**31 - 1  # of any seed, that all generators take


def cpu_count() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Threads that wait for each other by spinning take the processors from whoever works: beside other processes a
# training took 80 times as long, and a search right after encoding 1.3 to 1.8 times, though nothing else ran. OpenMP
# (PyTorch, FAISS) and OpenBLAS (NumPy, SciPy) read these as they are loaded.
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}  # 2^4 cycles, then asleep
_CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # variables with which a user chooses PyTorch's threads
_DECOMPOSED = 1024  # rows of a matrix to the decomposition of which further threads add little
_THREAD_WORK = 5e8  # floating-point operations of a step that are worth a thread: about 5 ms


def wait_passively() -> None:
    """Has threads that wait for each other sleep; whatever the user has set stays.

    It counts for libraries that are loaded afterwards, so `import sdc` calls it.
    """
    for name, value in _PASSIVE.items():
        os.environ.setdefault(name, value)


def threads_for(work: float, available: int) -> int:
    """How many of the available threads a step of so many floating-point operations keeps busy.

    With fewer operations a thread, what a step gains by it is little, and it waits for each of its threads some thirty
    times: beside other processes for one that does not run.
    """
    return int(min(max(work / _THREAD_WORK, 1), available))


@contextlib.contextmanager
def threads_by_work(work: float) -> Iterator[None]:
    """PyTorch meanwhile uses as many threads as the work is worth, see `threads_for`.

    A number that the user has chosen stays, by a variable or by torch.set_num_threads.
    """
    import torch

    before = torch.get_num_threads()
    chosen = any(name in os.environ for name in _CHOSEN) or before not in (cpu_count(), _core_count())
    wanted = before if chosen else threads_for(work, before)
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def decomposing(size: int) -> Iterator[None]:
    """NumPy and SciPy meanwhile decompose a matrix of so many rows in one thread, unless it is large.

    Several threads wait for each other at each of its columns: beside other processes an eigenvalue decomposition of
    512 rows took 8 times as long, and 50 singular value decompositions of 64 rows 15 times, though nothing else ran.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas") if size <= _DECOMPOSED else contextlib.nullcontext():
        yield


def _core_count() -> int:
    """How many cores this process may use, where some have two processors: PyTorch's own number of threads."""
    siblings = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    cores = {path.read_text() for path in siblings if int(path.parts[-3][3:]) in mine}
    return len(cores) or cpu_count()
