"""The routes. Searches run in threads; the event loop only receives and sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from sdc.devices import cpu_count
from sdc.errors import SdcError, log
from sdc.serve import openapi, page
from sdc.serve.allowed_hosts import Hosts
from sdc.serve.images import shown
from sdc.serve.limits import Gate, RefusedError, busy
from sdc.serve.metrics import Metrics
from sdc.serve.reload import Follower
from sdc.serve.request_parsing import How, of_json, of_parameters
from sdc.serve.settings import MOST_EXAMPLES, ServeSettings
from sdc.serve.snapshot import Loaded

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

_IMAGES = "/images/"
_PIECE = 1 << 16  # bytes of an answer handed to the connection at once
_HEADERS = {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}


class Service:
    """One index over HTTP.

    Args:
        loopback: whether only this machine is served.

    Attributes:
        draining: set once it is to end; /healthz says so.
    """

    def __init__(self, settings: ServeSettings, loaded: Loaded, *, loopback: bool = True) -> None:
        self.settings, self.draining = settings, False
        # Elsewhere nothing tells by which names others reach it.
        checked = loopback or bool(settings.allow_hosts)
        self.hosts = Hosts(settings.host, *settings.allow_hosts, checked=checked)
        self.metrics = Metrics()
        self.gate = Gate(settings.max_body)
        self.follower = Follower(loaded, self.metrics)
        self._threads = ThreadPoolExecutor(cpu_count(), "sdc-serve")
        self._page = page.Page()
        self._description = _json(openapi.describe(settings))

    @property
    def routes(self) -> list[Route]:
        """What is answered at which address."""
        return [
            Route("/", self.index_page),
            Route("/search", self.search, methods=["POST"]),
            Route("/examples", self.examples),
            Route(_IMAGES + "{id:path}", self.image),
            Route("/healthz", self.health),
            Route("/metrics", self.measurements),
            Route("/openapi.json", self.description),
        ]

    def application(self) -> ASGIApp:
        """The ASGI application; its lifespan starts and ends what runs beside the requests."""
        handlers: dict[Any, Any] = {
            RefusedError: _refused, SdcError: self._unfit, HTTPException: _no_route, MemoryError: _no_memory,
            Exception: _bug,
        }  # fmt: skip
        app = Starlette(routes=self.routes, exception_handlers=handlers, lifespan=self._life)
        app.router.redirect_slashes = False
        return _Observed(_Named(app, self.hosts), self.metrics)

    async def search(self, request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + self.settings.timeout
        loaded = self.follower.loaded
        async with self.gate.body(request, deadline) as body:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind.startswith("image/"):
                how = of_parameters(_lists(request), self.settings.max_k)
                if loaded.embedder is None:
                    raise RefusedError(
                        501, "images cannot be searched: the index's features were imported; send a vector"
                    )
                with self.gate.search():
                    features = await self._in(loaded.embedder.thread, partial(loaded.embedder, body), deadline)
                    answer = await self._in(self._threads, partial(_by_image, loaded, features, how), deadline)
            elif kind == "application/json":
                if request.query_params:
                    raise RefusedError(422, "parameters stand in the JSON body, found some in the address")
                with self.gate.search():
                    answer = await self._in(
                        self._threads, partial(_by_json, loaded, body, self.settings.max_k), deadline
                    )
            else:
                raise RefusedError(
                    415, f"found content of type {kind[:40] or 'none'}, expected application/json or image/*"
                )
        return _Answer(answer, self.gate)

    async def examples(self, request: Request) -> Response:
        text = request.query_params.get("limit", "12")
        if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST_EXAMPLES):
            raise RefusedError(422, f"limit: expected 1 to {MOST_EXAMPLES}, found {text[:40]!r}")
        items = await self._soon(partial(self.follower.loaded.examples, int(text)))
        return _sent(_json({"examples": items}))

    async def image(self, request: Request) -> Response:
        folder, name = self.settings.images, request.path_params["id"]
        if folder is None:
            raise RefusedError(404, "no images are shown: the service was started without --images")
        loaded = self.follower.loaded

        def found() -> FileResponse:
            path, kind = shown(folder, name)
            if not loaded.has(name):
                raise RefusedError(404, "no image of this id")
            return FileResponse(path, media_type=kind, stat_result=path.stat(), headers={"cache-control": "no-cache"})

        return await self._soon(found)

    async def health(self, request: Request) -> Response:
        about = {
            "status": "draining" if self.draining else "ready",
            **self.follower.loaded.facts(),
            "outdated": self.follower.outdated,
            "shows_images": self.settings.images is not None,
            "max_k": self.settings.max_k,
            "max_body": self.settings.max_body,
        }
        return _sent(_json(about), 503 if self.draining else 200)

    async def measurements(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def description(self, request: Request) -> Response:
        return _sent(self._description)

    async def index_page(self, request: Request) -> Response:
        return Response(self._page.html, media_type="text/html", headers=self._page.headers)

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(self.follower.follow())
        try:
            yield
        finally:
            following.cancel()
            for threads in (self._threads, self.follower.thread):
                threads.shutdown(wait=False, cancel_futures=True)
            if self.follower.loaded.embedder:
                self.follower.loaded.embedder.close()

    async def _in(self, threads: Executor, work: Callable[[], T], deadline: float) -> T:
        """Runs in one of these threads; one that began is not stopped at the deadline, but nobody waits for it.

        Raises:
            RefusedError: 503, it was not done in time.
        """
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(threads, work), max(deadline - loop.time(), 0))
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise busy(f"not done within {self.settings.timeout:g} s") from None

    async def _soon(self, work: Callable[[], T]) -> T:
        with self.gate.search():
            return await self._in(self._threads, work, asyncio.get_running_loop().time() + self.settings.timeout)

    async def _unfit(self, request: Request, error: SdcError) -> Response:
        return _error(422, self.follower.loaded.public(error))


def _by_json(loaded: Loaded, body: bytearray, max_k: int) -> bytes:
    dimension = loaded.model.dimension if loaded.model else 0
    return _json(loaded.by_query(of_json(body, max_k, dimension)))


def _by_image(loaded: Loaded, features: Any, how: How) -> bytes:
    return _json(loaded.by_vectors(features, how, ["image"]))


def _lists(request: Request) -> dict[str, list[str]]:
    return {key: request.query_params.getlist(key) for key in request.query_params}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()  # in ASCII: an id may hold bytes that are no UTF-8


class _Answer(Response):
    """Sent as fast as the client reads it, and counted until then."""

    def __init__(self, content: bytes, gate: Gate) -> None:
        super().__init__(content, headers={"cache-control": "no-store"}, media_type="application/json")
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = len(self.body)
        with self._gate.answer(size):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for end in range(_PIECE, size + _PIECE, _PIECE):
                piece = self.body[end - _PIECE : end]
                await send({"type": "http.response.body", "body": piece, "more_body": end < size})


def _sent(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status, {"cache-control": "no-store", **(headers or {})}, "application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _sent(_json({"error": message}), status, headers)


async def _refused(request: Request, error: RefusedError) -> Response:
    headers = {"connection": "close"} if error.close else {}
    if error.status == 503:
        headers["retry-after"] = "1"
    return _error(error.status, error.message, headers)


async def _no_route(request: Request, error: HTTPException) -> Response:
    allowed = (error.headers or {}).get("Allow")
    if allowed:
        allowed = ", ".join(sorted(allowed.split(", ")))
        return _error(error.status_code, f"this address takes {allowed}", {"allow": allowed})
    return _error(error.status_code, "no such address: see /openapi.json")


async def _no_memory(request: Request, error: MemoryError) -> Response:
    log.error("out of memory at %s %s", request.method, request.url.path)
    return await _refused(request, busy("there is too little memory for this now"))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(500, "this is a bug of sdc; its log says more")


class _Named:
    """Refuses requests to a name that is not the service's."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            name = Headers(scope=scope).get("host")  # HTTP/1.0 may do without; browsers always send it
            if name is not None and not self._hosts.knows(name):
                app = _error(
                    421, f"no name of this service: {name[:100]!r}; ask localhost, or start it with --allow-host"
                )
        await app(scope, receive, send)


class _Observed:
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
    """One of few names, whatever is asked for."""
    if path.startswith(_IMAGES):
        return _IMAGES + "{id}"
    return path if path in openapi.ROUTES else "other"
