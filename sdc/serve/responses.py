"""Answers as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from sdc.serve.limits import RequestLimits

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_PIECE = 1 << 16  # bytes of an answer handed to the connection at once


def to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()  # in ASCII: an id may hold bytes that are no UTF-8


class Answer(Response):
    """An answer that is sent in pieces as the client reads them, and counted until the last."""

    def __init__(self, content: bytes, limits: RequestLimits) -> None:
        super().__init__(content, headers={"cache-control": "no-store"}, media_type="application/json")
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = len(self.body)
        with self._limits.answer(size):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for end in range(_PIECE, size + _PIECE, _PIECE):
                piece = self.body[end - _PIECE : end]
                await send({"type": "http.response.body", "body": piece, "more_body": end < size})


def json_response(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status, {"cache-control": "no-store", **(headers or {})}, "application/json")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return json_response(to_json({"error": message}), status, headers)
