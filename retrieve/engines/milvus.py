"""Milvus: a server, a cluster, or the embedded engine in a file, all through the one client.

A code is a native BINARY_VECTOR, compared by HAMMING; its bytes go over as they are, so that Milvus' bit j is ours.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.retrieve.engines.base import LONGEST_ID, MOST_ROWS, Batch, Hits, Record, client, foreign
from sdc.retrieve.engines.urls import Target

_TYPES = {"flat": "BIN_FLAT", "ivf": "BIN_IVF_FLAT"}
_CONNECT, _REQUEST, _HANDOVER, _BUILD = 4, 60, 600, 3600  # seconds
_LABELS = 4096  # of an ARRAY
_NAMES = 256  # looked for at once
_ANSWERS = 1 << 18  # neighbours asked for at once


class Milvus:
    """One collection; see `sdc.retrieve.engines.base.Engine`."""

    most = 16384

    def __init__(self, target: Target, *, create: bool = False) -> None:
        self.target, self.name = target, target.collection
        self._loaded = False
        self._held: Record | None = None
        if target.file is not None:
            _check_file(target, create)
        else:
            _knock(target)
        with _quiet(), _translating(target):
            pymilvus = client("pymilvus", "milvus")
            for name in ("pymilvus", "pymilvus.milvus_client", "pymilvus.bulk_writer"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # it logs what it raises, with its traceback
            self._types = pymilvus.DataType
            uri = f"http://{_host(target)}:{target.port}" if target.file is None else _started(target)
            token = os.environ.get("MILVUS_TOKEN", "")
            self._client = pymilvus.MilvusClient(uri, token=token, timeout=_CONNECT, **_channel(target))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._client.close()
        if self.target.file is not None:
            _embedded().release_server(str(self.target.file))

    def record(self) -> Record | None:
        with _translating(self.target):
            if not self._client.has_collection(self.name, timeout=_CONNECT):
                return None
            found = self._client.describe_collection(self.name, timeout=_REQUEST)
        record = Record.of_text(found.get("description"))
        shape = {field["name"]: field for field in found["fields"]}
        width = int(shape.get("code", {}).get("params", {}).get("dim", 0))
        if record is None or width != record.bits or not shape.keys() >= {"row", "id", "code"}:
            raise foreign(self.target, "fields", [_described(field) for field in found["fields"]])
        self._held = record
        return record

    def create(self, record: Record) -> None:
        kinds = self._types
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False, description=record.text())
        schema.add_field("row", kinds.INT64, is_primary=True)
        schema.add_field("id", kinds.VARCHAR, max_length=LONGEST_ID)
        if record.labels == "one":
            schema.add_field("label", kinds.INT64)
        elif record.labels == "many":
            schema.add_field("label", kinds.ARRAY, element_type=kinds.INT64, max_capacity=_LABELS)
        schema.add_field("code", kinds.BINARY_VECTOR, dim=record.bits)
        with _translating(self.target):
            self._client.create_collection(self.name, schema=schema, consistency_level="Strong", timeout=_REQUEST)
        self._held = record

    def drop(self) -> None:
        with _translating(self.target):
            self._client.drop_collection(self.name, timeout=_REQUEST)
        self._loaded = False

    def insert(self, batch: Batch) -> None:
        columns: dict[str, list[Any]] = {
            "row": batch.rows.tolist(),
            "id": batch.ids,
            "code": [code.tobytes() for code in batch.codes],
        }
        if batch.labels is not None:
            columns["label"] = list(batch.labels)
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        with _translating(self.target):
            self._client.insert(self.name, rows, timeout=_REQUEST)

    def present(self, first: int, last: int) -> np.ndarray:
        found = self._query(f"row >= {first} and row <= {last}", ["row"], limit=MOST_ROWS)
        return np.array([each["row"] for each in found], np.int64)

    def finish(self, record: Record) -> None:
        with _translating(self.target):
            self._load()
            self._client.flush(self.name, timeout=_BUILD)
            if self.target.file is None:
                self._until(self._built, _BUILD, "built its index")
                if record.index_type != "flat":
                    self._until(lambda: self._handed_over(record.count), _HANDOVER, "taken its index into use")

    def _until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise SdcError(f"{self.target.url}: Milvus has not {what} in {seconds} s; look at its logs")
            time.sleep(0.2)

    def _built(self) -> bool:
        """Whether all segments are indexed, which are one by one in the background."""
        state = self._client.describe_index(self.name, "code", timeout=_REQUEST)
        if state.get("state") == "Failed":
            raise SdcError(f"{self.target.url}: Milvus cannot build its index; look at its logs")
        return not int(state.get("pending_index_rows", 0))

    def _handed_over(self, count: int) -> bool:
        """Whether searches use the index; for some seconds they go on comparing all that was inserted, exactly."""
        segments = self._client.list_loaded_segments(self.name, timeout=_REQUEST)
        return bool(sum(each.num_rows for each in segments if each.state_name != "Growing") >= count)

    def count(self, labels: Sequence[int] = ()) -> int:
        found = self._query(self._having(labels), ["count(*)"])
        return int(found[0]["count(*)"])

    def find(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, int]]:
        found: dict[str, tuple[np.ndarray, int]] = {}
        for start in range(0, len(names), _NAMES):
            for each in self._named(list(names[start : start + _NAMES])):
                name, row, code = each["id"], int(each["row"]), each["code"]
                if name not in found or row < found[name][1]:
                    found[name] = np.frombuffer(code[0] if isinstance(code, list) else code, np.uint8), row
        return found

    def _named(self, names: list[str]) -> list[dict[str, Any]]:
        """The items with one of these ids; of an id that more than `MOST_ROWS` items share, some."""
        listed = ", ".join(map(self._quoted, names))
        found = self._query(f"id in [{listed}]", ["id", "row", "code"], limit=MOST_ROWS)
        if len(found) < MOST_ROWS or len(names) == 1:
            return found
        half = len(names) // 2  # the items of one id may have left no room for another's
        return self._named(names[:half]) + self._named(names[half:])

    def _quoted(self, name: str) -> str:
        """An id as part of a condition."""
        if self.target.file is None:
            return json.dumps(name, ensure_ascii=False)
        # The embedded engine knows no escapes but these of quotes and backslashes.
        if "\n" in name or "\r" in name:
            raise UsageError(
                f"the embedded Milvus cannot be asked for the id {name!r}, since it has a line break: give the item's "
                "vector with --queries"
            )
        return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def search(
        self,
        codes: np.ndarray,
        k: int,
        *,
        radius: int | None = None,
        labels: Sequence[int] = (),
        nprobe: int | None = None,
        exact: bool = False,
    ) -> list[Hits]:
        params: dict[str, Any] = {}
        if radius is not None:  # range_filter ≤ distance < radius
            params |= {"radius": radius + 1, "range_filter": 0}
        if self._held is not None and self._held.index_type == "ivf":
            params["nprobe"] = self._held.lists if exact else self._held.probes(nprobe)
        hits: list[Hits] = []
        step = max(1, min(1024, _ANSWERS // k))
        with _translating(self.target):
            self._load()
            for start in range(0, len(codes), step):
                found = self._client.search(
                    self.name, [code.tobytes() for code in codes[start : start + step]], limit=k, anns_field="code",
                    filter=self._having(labels), output_fields=["id"], timeout=_BUILD,
                    search_params={"metric_type": "HAMMING", "params": params}, consistency_level="Strong",
                )  # fmt: skip
                hits += [_hits(near) for near in found]
        return hits

    def _having(self, labels: Sequence[int]) -> str:
        """The condition for items with one of these labels; without labels for all."""
        if not labels:
            return ""
        listed = ", ".join(str(int(label)) for label in labels)
        many = self._held is not None and self._held.labels == "many"
        return f"array_contains_any(label, [{listed}])" if many else f"label in [{listed}]"

    def _query(self, condition: str, fields: list[str], **limit: int) -> list[dict[str, Any]]:
        with _translating(self.target):
            self._load()
            return list(
                self._client.query(
                    self.name, filter=condition, output_fields=fields, consistency_level="Strong", timeout=_REQUEST,
                    **limit,
                )
            )  # fmt: skip

    def _load(self) -> None:
        """Makes the collection ready to be counted and searched, which takes an index even of one without codes."""
        if self._loaded:
            return
        if self._held is not None and not self._client.list_indexes(self.name, timeout=_REQUEST):
            index = self._client.prepare_index_params()
            lists = {"nlist": self._held.lists} if self._held.index_type == "ivf" else {}
            index.add_index("code", index_type=_TYPES[self._held.index_type], metric_type="HAMMING", params=lists)
            self._client.create_index(self.name, index, timeout=_REQUEST)
        self._client.load_collection(self.name, timeout=_BUILD)
        self._loaded = True


def _hits(near: list[dict[str, Any]]) -> Hits:
    """A hit's own id is the primary key, our row; our id is among its fields."""
    rows, distances = [hit["id"] for hit in near], [hit["distance"] for hit in near]
    return Hits.sorted(rows, distances, [hit["entity"]["id"] for hit in near])


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


def _described(field: dict[str, Any]) -> str:
    kind = getattr(field["type"], "name", field["type"])
    width = field.get("params", {}).get("dim")
    return f"{field['name']} ({kind}{f' of {width} bits' if width else ''})"


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
    except sqlite3.OperationalError:  # another process writes to it, which the engine will say
        return
    except sqlite3.DatabaseError:
        tables = {"none at all"}
    if tables and "collection_meta" not in tables:
        raise SdcError(f"{file} is no file of the embedded Milvus: name another")


def _knock(target: Target) -> None:
    """Finds out fast whether anything listens there; the client would try for long, and say little."""
    try:
        socket.create_connection((target.host, target.port), timeout=_CONNECT).close()
    except OSError as error:
        raise SdcError(
            f"no Milvus can be reached at {_host(target)}:{target.port} ({error.strerror or error}): is it running?"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the client and the embedded engine say beside the errors they raise."""
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
def _translating(target: Target) -> Iterator[None]:
    """The client's errors, as ours."""
    try:
        yield
    except SdcError:
        raise
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module not in ("pymilvus", "grpc"):
            raise
        said = " ".join(str(getattr(error, "message", "") or error).split())[:300]
        raise SdcError(f"{target.url}: {_advice(target, said)}") from None


def _advice(target: Target, said: str) -> str:
    low = said.lower()
    if "auth" in low or "permission" in low:
        return f"Milvus refuses us ({said}): give its MILVUS_TOKEN=USER:PASSWORD in the environment"
    if "collection not found" in low or "can't find collection" in low or "collection not exist" in low:
        return f"the collection is gone ({said}): push again"
    if "fail connecting" in low:  # also where it refuses the user, which the client keeps to itself
        return "no Milvus answers there, or it refuses us: give its MILVUS_TOKEN=USER:PASSWORD in the environment"
    if "connect" in low or "unavailable" in low or "deadline" in low:
        return f"Milvus does not answer ({said})"
    return f"Milvus refuses: {said}"
