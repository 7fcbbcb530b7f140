"""What every request passes: the check of the name it asks, the metrics, and the headers of all answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from sdc.serve import openapi
from sdc.serve.allowed_hosts import AllowedHosts
from sdc.serve.metrics import Metrics
from sdc.serve.responses import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

IMAGES = "/images/"
_HEADERS = {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}


class CheckedHost:
    """Refuses requests to a name that is not the service's."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            name = Headers(scope=scope).get("host")  # HTTP/1.0 may do without; browsers always send it
            if name is not None and not self._hosts.knows(name):
                app = error_response(
                    421, f"no name of this service: {name[:100]!r}; ask localhost, or start it with --allow-host"
                )
        await app(scope, receive, send)


class Observed:
    """Counts and times every request, and adds the headers that all answers have."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.in_flight.dec()
            route = _route(scope["path"])
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)


def _route(path: str) -> str:
    """The route of a path, for the metrics; all unknown paths are one."""
    if path.startswith(IMAGES):
        return IMAGES + "{id}"
    return path if path in openapi.ROUTES else "other"
