"""Progress of a long task: a bar on a terminal, else a log line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from sdc.errors import log


class Progress:
    """Progress of one long task: a bar on a terminal, else a log line now and then.

    Short tasks stay silent: nothing shows in the first second.

    Args:
        what: what is being done, e.g. "extract".
        total: how many units there are; may change underway.
        unit: the name of a unit, e.g. "images".
        already: units that were done before, which say nothing about the rate.
        silent: show nothing, as where another process does.
    """

    log_every = 10.0  # seconds between log lines where there is no terminal

    def __init__(self, what: str, total: int, unit: str, already: int = 0, silent: bool = False) -> None:
        self.what, self.total, self.unit, self.done, self.already = what, total, unit, already, already
        self._note, self._silent = "", silent
        self._start = self._logged = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        seconds = time.monotonic() - self._start
        if kind is None and seconds > 2 and not self._silent:
            done = self.done - self.already
            log.info("%s: %d %s in %.1f s (%.4g a second)", self.what, done, self.unit, seconds, done / seconds)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Counts `units` more as done; `note` is shown beside them until there is another (e.g. the loss)."""
        self.done += units
        self._note = note or self._note
        now = time.monotonic()
        if now - self._start < 1 or self._silent:
            return
        rate = (self.done - self.already) / (now - self._start)
        if sys.stderr.isatty():
            if self._bar is None:
                self._begin_bar()
            note = f"{rate:.4g} a second {self._note}"
            self._bar.update(self._task, completed=self.done, total=self.total, note=note)
        elif now - self._logged >= self.log_every:
            self._logged = now
            seconds = (self.total - self.done) / rate if rate else float("inf")
            log.info(
                "%s: %d of %d %s, %.4g a second, %.0f s left%s",
                self.what, self.done, self.total, self.unit, rate, seconds, f", {self._note}" if self._note else "",
            )  # fmt: skip

    def _begin_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn(f"{self.what}"), BarColumn(), MofNCompleteColumn(), TextColumn(self.unit),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=self.total, note="")
        self._bar.start()
