"""Limits of requests: the size of a body and its time, and the bytes and searches of all requests at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from sdc.serve.settings import HELD, SEARCHES

if TYPE_CHECKING:
    from starlette.requests import Request

_DISCARDED = 64 << 20  # bytes read beyond the limit, so that a client that sends before it reads gets to see the answer


class HTTPRefusal(Exception):  # noqa: N818 — named as Starlette's HTTPException is
    """The answer that a request is not carried out.

    Attributes:
        status: of HTTP.
        message: for the client, in one line.
        close: whether the connection ends, since the rest of the request was not read.
    """

    def __init__(self, status: int, message: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.status, self.message, self.close = status, message, close


def busy(message: str, *, close: bool = False) -> HTTPRefusal:
    """A refusal that holds for the moment only."""
    return HTTPRefusal(503, f"{message}; try again", close=close)


class RequestLimits:
    """Counts the searches and bytes of unfinished requests, and refuses more than the limits.

    Attributes:
        searches: how many run or wait.
        held: bytes of bodies that have come in, and of answers that have not gone out.
    """

    def __init__(self, max_body: int, searches: int = SEARCHES, held: int = HELD) -> None:
        self.max_body, self.searches, self.held = max_body, 0, 0
        self._most_searches, self._most_held = searches, held

    @contextlib.asynccontextmanager
    async def body(self, request: Request, deadline: float) -> AsyncIterator[bytearray]:
        """The body of a request, counted while it comes in.

        Args:
            deadline: by the clock of the event loop, when it must be there.

        Raises:
            HTTPRefusal: 413 it is too large, 408 too slow, 503 others hold too much, 400 the client is gone.
        """
        body = bytearray()
        try:
            self._check_announced(request)
            await self._fill(body, request, deadline)
            yield body
        finally:
            self.held -= len(body)

    @contextlib.contextmanager
    def search(self) -> Iterator[None]:
        """Counts a search while it runs.

        Raises:
            HTTPRefusal: 503, as many run or wait as may.
        """
        if self.searches >= self._most_searches:
            raise busy(f"{self.searches} searches are running or waiting")
        self.searches += 1
        try:
            yield
        finally:
            self.searches -= 1

    @contextlib.contextmanager
    def answer(self, size: int) -> Iterator[None]:
        """Counts an answer until the client has read it.

        Raises:
            HTTPRefusal: 503, others hold too much.
        """
        if self.held and self.held + size > self._most_held:
            raise busy("too many answers are being sent")
        self.held += size
        try:
            yield
        finally:
            self.held -= size

    def _check_announced(self, request: Request) -> None:
        """Refuses by Content-Length what need not even be sent; it is counted all the same, since it may lie."""
        length = request.headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0
        waits = request.headers.get("expect", "").lower() == "100-continue"
        if size > self.max_body and (waits or size > self.max_body + _DISCARDED):
            raise self._too_large(close=True)

    def _too_large(self, *, close: bool) -> HTTPRefusal:
        return HTTPRefusal(413, f"the body has more than {self.max_body} bytes", close=close)

    async def _fill(self, body: bytearray, request: Request, deadline: float) -> None:
        from starlette.requests import ClientDisconnect

        seconds = deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(self._receive(body, request.stream()), max(seconds, 0))
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise HTTPRefusal(408, "the body came too slowly", close=True) from None
        except ClientDisconnect:
            raise HTTPRefusal(400, "the client left before its request was whole", close=True) from None

    async def _receive(self, body: bytearray, chunks: AsyncIterator[bytes]) -> None:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self.max_body:
                self.held -= len(body)
                body.clear()
                if size > self.max_body + _DISCARDED:
                    raise self._too_large(close=True)
            elif self.held + len(chunk) > self._most_held:
                raise busy("too many requests are being received", close=True)
            else:
                self.held += len(chunk)
                body += chunk
        if size > self.max_body:
            raise self._too_large(close=False)
