"""The process: socket, signals, start and end."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from sdc.errors import SdcError, UsageError, log
from sdc.serve.settings import CONNECTIONS, ServeSettings

if TYPE_CHECKING:
    import uvicorn

    from sdc.serve.app import Service

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LINGER = 1.0  # seconds that threads nobody waits for get at the end
_UNREAD = 1 << 18  # bytes that the system keeps of an answer; it would keep megabytes for each client that reads none
_TRIED = 20  # ids whose images are looked for at the start
_SPARE = 64  # file descriptors that are no connections


def serve(settings: ServeSettings) -> None:
    """Serves an index until a signal ends it; then the requests that are running are answered first.

    A second signal ends the process at once, with the exit code 128 + its number.

    Raises:
        SdcError: index or model cannot be opened, the port is in use or may not be used.
        UsageError: a setting is out of its range, the host is unknown, or the extra `serve` is not installed.
    """
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UsageError(f"sdc serve needs {error.name}: pip install 'sdc-hash[serve]'") from None
    from threadpoolctl import threadpool_limits

    from sdc.serve.app import Service
    from sdc.serve.connection import limited
    from sdc.serve.snapshot import Snapshot

    listener = _bound(settings.host, settings.port)  # before what takes long
    # Of BLAS' threads the idle ones spin on after each product, for longer than a search takes, on its processors.
    with contextlib.closing(listener), threadpool_limits(1, user_api="blas"):
        service = Service(settings, Snapshot.open(settings), loopback=_is_loopback(listener))
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # clients' faults; what is ours the service logs
        config = uvicorn.Config(
            service.application(), loop="asyncio", http=limited(settings.timeout, _connections()), ws="none",
            lifespan="on", log_config=None, access_log=False, proxy_headers=False, server_header=False,
            timeout_graceful_shutdown=math.ceil(settings.timeout) + 1,
        )  # fmt: skip
        _server(config, service, listener).run(sockets=[listener])
    log.info("stopped")
    _end()


def _server(config: uvicorn.Config, service: Service, listener: socket.socket) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn's server, but a signal ends it in order; uvicorn would raise the signal again afterwards."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit:
                os._exit(128 + sig)
            self.should_exit = service.draining = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _announce(service, listener)

    return Server(config)


def _announce(service: Service, listener: socket.socket) -> None:
    from sdc.serve.images import any_shown

    address, port = listener.getsockname()[:2]
    snapshot, images = service.reloader.snapshot, service.settings.images
    index, some = snapshot.index, [item["id"] for item in snapshot.examples(_TRIED)]
    where = f"[{address}]" if ":" in address else address
    log.info("serving %d codes of %d bits at http://%s:%d/", index.ntotal, index.bits, where, port)
    if not _is_loopback(listener):
        log.warning(
            "anyone who reaches %s may search, unencrypted: there is no authentication and no TLS here; put a proxy "
            "that has them in front", where,
        )  # fmt: skip
    if images is not None and not any_shown(images, some):
        log.warning(
            "--images %s has none of the images of %d ids that were tried, such as %s: name the folder that the ids "
            "are paths in", images, len(some), some[0],
        )  # fmt: skip


def _is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the first address of the host; who connects waits until there is a service."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = addresses[0]
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "it is no name"
        raise UsageError(f"--host {host}: unknown ({reason}); expected a name or address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)  # the connections inherit it
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SdcError(f"port {port} of {host} is in use: choose another --port, or 0 for any") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"--host {host}: no address of this machine") from None
        raise SdcError(f"cannot listen on port {port} of {host}: {error.strerror}; choose another --port") from None
    return listener


def _connections() -> int:
    """The most connections: each takes a file descriptor, and one more while an image is sent."""
    import resource

    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptors == resource.RLIM_INFINITY:
        return CONNECTIONS
    return max(1, min(CONNECTIONS, (descriptors - _SPARE) // 2))


def _end() -> None:
    """Ends the process without waiting long for threads whose results are not needed."""
    until = time.monotonic() + _LINGER
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("sdc-serve")]
    for thread in ours:
        thread.join(max(until - time.monotonic(), 0))
    if any(thread.is_alive() for thread in ours):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)
