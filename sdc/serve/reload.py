"""Watches the files of the index, opens a changed one beside the one that is served, and swaps them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from sdc.errors import log
from sdc.retrieve.index import EncodedIndex
from sdc.serve.images import Embedder
from sdc.serve.metrics import Metrics
from sdc.serve.settings import ServeSettings

if TYPE_CHECKING:
    from typing import Self

POLL = 1.0  # seconds between looks at the files
_LONGEST = 30.0  # between attempts to open what could not be opened


class Served(Protocol):
    """What is served and replaced as a whole: `sdc.serve.snapshot.Snapshot`."""

    @property
    def index(self) -> EncodedIndex: ...

    @property
    def generation(self) -> int: ...

    @property
    def embedder(self) -> Embedder | None: ...

    @property
    def settings(self) -> ServeSettings: ...

    def newer(self) -> Self | None: ...


S = TypeVar("S", bound=Served)


class Reloader(Generic[S]):
    """Holds the snapshot that is served, and replaces it where the index has changed.

    Attributes:
        snapshot: a request takes it once, and uses it from start to end.
        outdated: whether there is a newer index that cannot be opened.
    """

    def __init__(self, snapshot: S, metrics: Metrics) -> None:
        self.snapshot, self.outdated, self._metrics = snapshot, False, metrics
        self.thread = ThreadPoolExecutor(1, "sdc-serve-index")
        metrics.serves(snapshot.index.ntotal, snapshot.generation)

    async def follow(self) -> None:
        """Takes up changes for ever."""
        delay, last_error = POLL, ""
        while True:
            await asyncio.sleep(delay)
            try:
                newer = await asyncio.get_running_loop().run_in_executor(self.thread, self.snapshot.newer)
            except Exception as error:  # whatever a damaged file leads to: the one that is served stays
                self.outdated = True
                self._metrics.failed_reloads.inc()
                if str(error) != last_error:
                    log.warning("the index has changed, but cannot be opened: %s", error)
                delay, last_error = min(2 * delay, _LONGEST), str(error)
                continue
            if newer is not None:
                log.info("the index has changed: generation %d has %d codes", newer.generation, newer.index.ntotal)
                replaced, self.snapshot = self.snapshot.embedder, newer
                if replaced and replaced is not newer.embedder:
                    asyncio.get_running_loop().call_later(newer.settings.timeout, replaced.close)
                self._metrics.reloads.inc()
                self._metrics.serves(newer.index.ntotal, newer.generation)
            delay, last_error, self.outdated = POLL, "", False
