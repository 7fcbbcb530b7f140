"""The routes. Searches run in threads; the event loop only receives and sends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from sdc.devices import cpu_count
from sdc.errors import SdcError, log
from sdc.serve import openapi, page
from sdc.serve.allowed_hosts import AllowedHosts
from sdc.serve.images import shown
from sdc.serve.limits import HTTPRefusal, RequestLimits, busy
from sdc.serve.metrics import Metrics
from sdc.serve.middleware import IMAGES, CheckedHost, Observed
from sdc.serve.reload import Reloader
from sdc.serve.request_parsing import How, of_json, of_parameters
from sdc.serve.responses import Answer, error_response, json_response, to_json
from sdc.serve.settings import MOST_EXAMPLES, ServeSettings
from sdc.serve.snapshot import NotMeasuredError, Snapshot

if TYPE_CHECKING:
    from starlette.types import ASGIApp

T = TypeVar("T")


class Service:
    """One index over HTTP.

    Args:
        loopback: whether only this machine is served.

    Attributes:
        draining: set once it is to end; /healthz says so.
    """

    def __init__(self, settings: ServeSettings, snapshot: Snapshot, *, loopback: bool = True) -> None:
        self.settings, self.draining = settings, False
        # Elsewhere nothing tells by which names others reach it.
        checked = loopback or bool(settings.allow_hosts)
        self.hosts = AllowedHosts(settings.host, *settings.allow_hosts, checked=checked)
        self.metrics = Metrics()
        self.limits = RequestLimits(settings.max_body)
        self.reloader = Reloader(snapshot, self.metrics)
        self._threads = ThreadPoolExecutor(cpu_count(), "sdc-serve")
        self._measuring = ThreadPoolExecutor(1, "sdc-serve-measuring")  # a pass over all features, one at a time
        self._page = page.Page()
        self._description = to_json(openapi.describe(settings))

    @property
    def routes(self) -> list[Route]:
        """The paths and what answers them."""
        return [
            Route("/", self.index_page),
            Route("/search", self.search, methods=["POST"]),
            Route("/examples", self.examples),
            Route(IMAGES + "{id:path}", self.image),
            Route("/healthz", self.health),
            Route("/metrics", self.measurements),
            Route("/openapi.json", self.description),
        ]

    def application(self) -> ASGIApp:
        """The ASGI application; its lifespan starts and ends what runs beside the requests."""
        handlers: dict[Any, Any] = {
            HTTPRefusal: _refused, SdcError: self._unfit, HTTPException: _no_route, MemoryError: _no_memory,
            Exception: _bug,
        }  # fmt: skip
        app = Starlette(routes=self.routes, exception_handlers=handlers, lifespan=self._life)
        app.router.redirect_slashes = False
        return Observed(CheckedHost(app, self.hosts), self.metrics)

    async def search(self, request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + self.settings.timeout
        snapshot = self.reloader.snapshot
        async with self.limits.body(request, deadline) as body:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind.startswith("image/"):
                how = of_parameters(_lists(request), self.settings.max_k)
                if snapshot.embedder is None:
                    raise HTTPRefusal(
                        501, "images cannot be searched: the index's features were imported; send a vector"
                    )
                with self.limits.search():
                    features = await self._in(snapshot.embedder.thread, partial(snapshot.embedder, body), deadline)
                    answer = await self._answer(snapshot, partial(_by_image, snapshot, features, how), deadline)
            elif kind == "application/json":
                if request.query_params:
                    raise HTTPRefusal(422, "parameters stand in the JSON body, found some in the address")
                with self.limits.search():
                    work = partial(_by_json, snapshot, body, self.settings.max_k)
                    answer = await self._answer(snapshot, work, deadline)
            else:
                raise HTTPRefusal(
                    415, f"found content of type {kind[:40] or 'none'}, expected application/json or image/*"
                )
        return Answer(answer, self.limits)

    async def examples(self, request: Request) -> Response:
        text = request.query_params.get("limit", "12")
        if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MOST_EXAMPLES):
            raise HTTPRefusal(422, f"limit: expected 1 to {MOST_EXAMPLES}, found {text[:40]!r}")
        items = await self._soon(partial(self.reloader.snapshot.examples, int(text)))
        return json_response(to_json({"examples": items}))

    async def image(self, request: Request) -> Response:
        folder, name = self.settings.images, request.path_params["id"]
        if folder is None:
            raise HTTPRefusal(404, "no images are shown: the service was started without --images")
        snapshot = self.reloader.snapshot

        def file_response() -> FileResponse:
            path, kind = shown(folder, name)
            if not snapshot.has(name):
                raise HTTPRefusal(404, "no image of this id")
            return FileResponse(path, media_type=kind, stat_result=path.stat(), headers={"cache-control": "no-cache"})

        return await self._soon(file_response)

    async def health(self, request: Request) -> Response:
        about = {
            "status": "draining" if self.draining else "ready",
            **self.reloader.snapshot.facts(),
            "outdated": self.reloader.outdated,
            "shows_images": self.settings.images is not None,
            "max_k": self.settings.max_k,
            "max_body": self.settings.max_body,
        }
        return json_response(to_json(about), 503 if self.draining else 200)

    async def measurements(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def description(self, request: Request) -> Response:
        return json_response(self._description)

    async def index_page(self, request: Request) -> Response:
        return Response(self._page.html, media_type="text/html", headers=self._page.headers)

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(self.reloader.follow())
        try:
            yield
        finally:
            following.cancel()
            for threads in (self._threads, self._measuring, self.reloader.thread):
                threads.shutdown(wait=False, cancel_futures=True)
            if self.reloader.snapshot.embedder:
                self.reloader.snapshot.embedder.close()

    async def _answer(self, snapshot: Snapshot, work: Callable[[], bytes], deadline: float) -> bytes:
        """The answer to a search; what `auto` takes is measured first, where nobody has asked for it yet.

        Raises:
            HTTPRefusal: 503, that is not done in time. It goes on, and is remembered.
        """
        try:
            return await self._in(self._threads, work, deadline)
        except NotMeasuredError as missing:
            measure = partial(snapshot.finer.measure, missing.k, missing.recall)
        await self._in(self._measuring, measure, deadline, "measuring what rerank: auto takes, which goes on, was ")
        return await self._in(self._threads, work, deadline)

    async def _in(self, threads: Executor, work: Callable[[], T], deadline: float, what: str = "") -> T:
        """Runs work in one of these threads. At the deadline nobody waits for it any more; it is not stopped.

        Args:
            what: is done, for the refusal.

        Raises:
            HTTPRefusal: 503, it was not done in time.
        """
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(threads, work), max(deadline - loop.time(), 0))
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise busy(f"{what}not done within {self.settings.timeout:g} s") from None

    async def _soon(self, work: Callable[[], T]) -> T:
        with self.limits.search():
            return await self._in(self._threads, work, asyncio.get_running_loop().time() + self.settings.timeout)

    async def _unfit(self, request: Request, error: SdcError) -> Response:
        return error_response(422, self.reloader.snapshot.public(error))


def _by_json(snapshot: Snapshot, body: bytearray, max_k: int) -> bytes:
    dimension = snapshot.model.dimension if snapshot.model else 0
    return to_json(snapshot.by_query(of_json(body, max_k, dimension)))


def _by_image(snapshot: Snapshot, features: Any, how: How) -> bytes:
    return to_json(snapshot.by_vectors(features, how, ["image"]))


def _lists(request: Request) -> dict[str, list[str]]:
    return {key: request.query_params.getlist(key) for key in request.query_params}


async def _refused(request: Request, error: HTTPRefusal) -> Response:
    headers = {"connection": "close"} if error.close else {}
    if error.status == 503:
        headers["retry-after"] = "1"
    return error_response(error.status, error.message, headers)


async def _no_route(request: Request, error: HTTPException) -> Response:
    allowed = (error.headers or {}).get("Allow")
    if allowed:
        allowed = ", ".join(sorted(allowed.split(", ")))
        return error_response(error.status_code, f"this address takes {allowed}", {"allow": allowed})
    return error_response(error.status_code, "no such address: see /openapi.json")


async def _no_memory(request: Request, error: MemoryError) -> Response:
    log.error("out of memory at %s %s", request.method, request.url.path)
    return await _refused(request, busy("there is too little memory for this now"))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(500, "this is a bug of sdc; its log says more")
