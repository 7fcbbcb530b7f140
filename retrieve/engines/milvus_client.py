"""Opens Milvus' client on a server or the embedded engine's file, quotes ids for it, and raises its errors as ours."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sqlite3
import warnings
from collections.abc import Iterator
from typing import Any

from sdc.errors import SdcError, UsageError
from sdc.retrieve.engines.base import client
from sdc.retrieve.engines.urls import Target

CONNECT_SECONDS = 4


def open_client(target: Target, *, create: bool) -> tuple[Any, Any]:
    """The client, and the module's DataType.

    Args:
        create: a file may be made.

    Raises:
        UsageError: the client is not installed, or the file is no regular one.
        SdcError: nothing can be reached there, or the file is no file of Milvus.
    """
    if target.file is not None:
        _check_file(target, create)
    else:
        _knock(target)
    with _quiet(), translated(target):
        pymilvus = client("pymilvus", "milvus")
        for name in ("pymilvus", "pymilvus.milvus_client", "pymilvus.bulk_writer"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # it logs what it raises, with its traceback
        uri = f"http://{_host(target)}:{target.port}" if target.file is None else _started(target)
        token = os.environ.get("MILVUS_TOKEN", "")
        opened = pymilvus.MilvusClient(uri, token=token, timeout=CONNECT_SECONDS, **_channel(target))
    return opened, pymilvus.DataType


def release(target: Target) -> None:
    """Ends the process of the embedded engine, where it is one."""
    if target.file is not None:
        _embedded().release_server(str(target.file))


def _embedded() -> Any:
    return client("milvus_lite.server_manager", "milvus").server_manager_instance


def _started(target: Target) -> str:
    """The address of the embedded engine, which runs in a process of its own until it is released."""
    address: str | None = _embedded().start_and_get_uri(str(target.file))
    if address is None:
        raise SdcError(f"the embedded Milvus does not start on {target.file}: another process may have it open")
    return address


def _host(target: Target) -> str:
    return f"[{target.host}]" if ":" in target.host else target.host


def _channel(target: Target) -> dict[str, Any]:
    """For an IPv6 address a channel of our own, since the client would lose its brackets."""
    if ":" not in target.host:
        return {}
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    address = f"ipv6:{_host(target)}:{target.port}"
    return {"channel": client("grpc", "milvus").insecure_channel(address, options=unlimited)}


def _check_file(target: Target, create: bool) -> None:
    """Refuses a file that is not there, or is not the embedded engine's: a SQLite database with a table of its own."""
    file = target.file
    assert file is not None
    if file.is_dir() or (file.exists() and not file.is_file()):
        raise UsageError(f"{file} is no regular file, expected one of the embedded Milvus")
    if not file.exists():
        if not create:
            raise SdcError(f"there is no {file}: make it with `sdc push --to {target.url}`")
        if not file.absolute().parent.is_dir():
            raise SdcError(f"cannot write {file}: the folder {file.absolute().parent} does not exist; make it first")
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master")}
    except sqlite3.OperationalError:  # another process writes to it, which the engine will report
        return
    except sqlite3.DatabaseError:
        tables = {"none at all"}
    if tables and "collection_meta" not in tables:
        raise SdcError(f"{file} is no file of the embedded Milvus: name another")


def _knock(target: Target) -> None:
    """Finds out fast whether anything listens there; the client would try for long, and explain little."""
    try:
        socket.create_connection((target.host, target.port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise SdcError(
            f"no Milvus can be reached at {_host(target)}:{target.port} ({error.strerror or error}): is it running?"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the client and the embedded engine print beside the errors they raise."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def translated(target: Target) -> Iterator[None]:
    """Raises the client's errors as SdcError."""
    try:
        yield
    except SdcError:
        raise
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module not in ("pymilvus", "grpc"):
            raise
        message = " ".join(str(getattr(error, "message", "") or error).split())[:300]
        raise SdcError(f"{target.url}: {_advice(target, message)}") from None


def _advice(target: Target, message: str) -> str:
    low = message.lower()
    if "auth" in low or "permission" in low:
        return f"Milvus refuses us ({message}): give its MILVUS_TOKEN=USER:PASSWORD in the environment"
    if "collection not found" in low or "can't find collection" in low or "collection not exist" in low:
        return f"the collection is gone ({message}): push again"
    if "fail connecting" in low:  # also where it refuses the user, which the client keeps to itself
        return "no Milvus answers there, or it refuses us: give its MILVUS_TOKEN=USER:PASSWORD in the environment"
    if "connect" in low or "unavailable" in low or "deadline" in low:
        return f"Milvus does not answer ({message})"
    return f"Milvus refuses: {message}"


def quoted(name: str, target: Target) -> str:
    """An id as part of a condition."""
    if target.file is None:
        return json.dumps(name, ensure_ascii=False)
    # The embedded engine knows no escapes but these of quotes and backslashes.
    if "\n" in name or "\r" in name:
        raise UsageError(
            f"the embedded Milvus cannot be asked for the id {name!r}, since it has a line break: give the item's "
            "vector with --queries"
        )
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
