"""The processors, devices and ranks that this process runs on."""

from __future__ import annotations

import os
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


def let_waiting_threads_sleep() -> None:
    """Has the threads of NumPy's BLAS sleep once they have no work, unless the environment says otherwise.

    By default they spin for another 2²⁶ cycles, and a search right after encoding, whose threads want the same
    processors, took 1.3 to 1.8 times as long. It takes effect before NumPy is imported: entry points call it first.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2⁴ cycles, the least


MOST_SEED = 2**31 - 1  # of any seed, that all generators take


def cpu_count() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
