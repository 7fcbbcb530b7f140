"""Kills a process at a given step of ours: a line that it runs of this package, wherever that is.

A kill after some time tests what the machine's load makes of it. A kill at the n-th line comes at the same place each
time, and a random n reaches all of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import sdc

_OURS = os.path.dirname(sdc.__file__) + os.sep


class Steps:
    """The lines that were run, of all threads; while paused, none counts."""

    def __init__(self, paused: bool = False) -> None:
        self.done, self.paused = 0, paused

    def resume(self) -> None:
        """Counts from now on."""
        self.paused = False


@contextlib.contextmanager
def killed_at(step: int | None, *, paused: bool = False) -> Iterator[Steps]:
    """Kills this process before the line of this number is run; `None` counts alone. Paused, it starts on `resume`."""
    steps = Steps(paused)

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and not steps.paused:
            steps.done += 1
            if steps.done == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(_OURS) else None

    threading.settrace(call)
    sys.settrace(call)
    try:
        yield steps
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
