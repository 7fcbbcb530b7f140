"""Limits that uvicorn lacks: seconds to send headers and to read an answer, and the number of connections."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_ANSWERED = 3  # times the time limit: to send headers, to send the body and wait, to read the answer


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with a time limit; at the limit of connections the slowest is closed."""

    timeout: float  # seconds
    most: int  # connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since, self._began = self.loop.time(), False
        self._watch = self.loop.call_later(self.timeout, self._check)
        if len(self.connections) > self.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        self._began = True
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client may end its side once it has asked, and still gets its answer; then the connection ends."""
        asked = not self._idle and not self.cycle.more_body
        if asked:
            self.cycle.keep_alive = False
        return asked

    def on_response_complete(self) -> None:
        self._since, self._began = self.loop.time(), False
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    @property
    def _idle(self) -> bool:
        """Whether no request with complete headers is unanswered."""
        return self.cycle is None or self.cycle.response_complete

    def _check(self) -> None:
        age = self.loop.time() - self._since
        if self._idle and age >= self.timeout and not self.transport.is_closing():
            if self._began:
                self._refuse(408, "the request came too slowly")
            else:
                self.transport.close()
        elif age >= self.timeout * _ANSWERED or (self._idle and age >= self.timeout):
            self.transport.abort()  # it was closed, but the client does not read what is left
        remaining = self.timeout * (1 if self._idle else _ANSWERED) - age
        self._watch = self.loop.call_later(min(max(remaining, self.timeout / 10), self.timeout), self._check)

    def _make_room(self) -> None:
        """Closes the connection that has waited longest for its request, or this one where all are being answered."""
        others = [
            other
            for other in self.connections
            if isinstance(other, Connection) and other is not self and not other.transport.is_closing()
        ]
        if len(others) < self.most:  # the rest are ending already
            return
        waiting = [other for other in others if other._idle or other.cycle.more_body]
        if waiting:
            min(waiting, key=lambda other: (not other._idle, other._since)).transport.abort()
        else:
            self._refuse(503, "too many connections; try again")

    def _refuse(self, status: int, message: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # in the middle of an answer
            return
        content = json.dumps({"error": message}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close"}
        if status == 503:
            headers["retry-after"] = "1"
        answer = h11.Response(status_code=status, headers=list(headers.items()), reason=HTTPStatus(status).phrase)
        for event in (answer, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def limited(timeout: float, most: int) -> type[Connection]:
    """The protocol with these limits; uvicorn takes a class, of which it makes an object a connection."""

    class LimitedConnection(Connection):
        pass

    LimitedConnection.timeout, LimitedConnection.most = timeout, most
    return LimitedConnection
