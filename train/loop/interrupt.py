"""Ctrl-C and SIGTERM in a training run."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sdc.errors import SdcError


class Interrupted(SdcError):  # noqa: N818 — not a failure: the run was asked to stop
    """The run was stopped by Ctrl-C or SIGTERM, after its checkpoint was saved."""

    exit_code = 130


@contextlib.contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is within at once, by `Interrupted`: for work of which nothing need be kept.

    Args:
        message: what was stopped, and how it goes on.
    """
    with contextlib.ExitStack() as former:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                former.callback(signal.signal, number, signal.signal(number, signal.default_int_handler))
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(message) from None


class StopSignals:
    """Remembers Ctrl-C and SIGTERM until the step is done, so that the state is saved between two steps."""

    def __init__(self) -> None:
        self.asked = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # a second Ctrl-C does not wait
            raise KeyboardInterrupt
        self.asked = True
