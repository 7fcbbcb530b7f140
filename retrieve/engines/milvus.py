"""Milvus: a server, a cluster, or the embedded engine in a file, all through the one client.

A code is a native BINARY_VECTOR, compared by HAMMING; its bytes go over as they are, so that Milvus' bit j is ours.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.retrieve.engines.base import MOST_ROWS, Engine, Hits, PushBatch, Record, foreign
from sdc.retrieve.engines.milvus_client import CONNECT_SECONDS, open_client, quoted, release, translated
from sdc.retrieve.engines.milvus_hits import code_of, coded, hits_of
from sdc.retrieve.engines.urls import Target, check_name, split_url

_FORM = "milvus://HOST:PORT/COLLECTION or milvus:FILE"
_PORT, _DEFAULT_COLLECTION = 19530, "sdc"
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_FILE = re.compile(r"[A-Za-z0-9._-]{1,36}")  # what milvus-lite takes
_TYPES = {"flat": "BIN_FLAT", "ivf": "BIN_IVF_FLAT"}
_REQUEST, _HANDOVER, _BUILD = 60, 600, 3600  # seconds
_LABELS = 4096  # of an ARRAY
_NAMES = 256  # looked for at once
_ANSWERS = 1 << 18  # neighbors asked for at once
_FIRST, _TIMES = 256, 8  # neighbors asked for to find all within a radius, and how many times as many next


class Milvus(Engine):
    """One collection."""

    title = "Milvus"
    form = _FORM
    index_types = tuple(_TYPES)
    longest_id = 65535  # bytes of a VARCHAR
    most = 16384

    def __init__(self, target: Target, *, create: bool = False) -> None:
        self.target, self.name = target, target.collection
        self._loaded = False
        self._record: Record | None = None
        self._client, self._types = open_client(target, create=create)

    @staticmethod
    def parse(url: str) -> Target:
        return _parse(url)

    @classmethod
    def types_at(cls, target: Target) -> tuple[str, ...]:
        return ("flat",) if target.file else cls.index_types

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._client.close()
        release(self.target)

    def record(self) -> Record | None:
        with translated(self.target):
            if not self._client.has_collection(self.name, timeout=CONNECT_SECONDS):
                return None
            description = self._client.describe_collection(self.name, timeout=_REQUEST)
        record = Record.of_text(description.get("description"))
        shape = {field["name"]: field for field in description["fields"]}
        width = int(shape.get("code", {}).get("params", {}).get("dim", 0))
        if record is None or width != record.bits or not shape.keys() >= {"row", "id", "code"}:
            raise foreign(self.target, "fields", [_described(field) for field in description["fields"]])
        self._record = record
        return record

    def create(self, record: Record) -> None:
        kinds = self._types
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False, description=record.text())
        schema.add_field("row", kinds.INT64, is_primary=True)
        schema.add_field("id", kinds.VARCHAR, max_length=self.longest_id)
        if record.labels == "one":
            schema.add_field("label", kinds.INT64)
        elif record.labels == "many":
            schema.add_field("label", kinds.ARRAY, element_type=kinds.INT64, max_capacity=_LABELS)
        schema.add_field("code", kinds.BINARY_VECTOR, dim=record.bits)
        with translated(self.target):
            self._client.create_collection(self.name, schema=schema, consistency_level="Strong", timeout=_REQUEST)
        self._record = record

    def drop(self) -> None:
        with translated(self.target):
            self._client.drop_collection(self.name, timeout=_REQUEST)
        self._loaded = False

    def insert(self, batch: PushBatch) -> None:
        columns: dict[str, list[Any]] = {
            "row": batch.rows.tolist(),
            "id": batch.ids,
            "code": [code.tobytes() for code in batch.codes],
        }
        if batch.labels is not None:
            columns["label"] = list(batch.labels)
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        with translated(self.target):
            self._client.insert(self.name, rows, timeout=_REQUEST)

    def present(self, first: int, last: int) -> np.ndarray:
        records = self._query(f"row >= {first} and row <= {last}", ["row"], limit=MOST_ROWS)
        return np.array([each["row"] for each in records], np.int64)

    def finish(self, record: Record) -> None:
        with translated(self.target):
            self._load()
            self._client.flush(self.name, timeout=_BUILD)
            if self.target.file is None:
                _wait(self._built, _BUILD, f"{self.target.url}: Milvus has not built its index")
                if record.index_type != "flat":
                    _wait(
                        lambda: self._handed_over(record.count), _HANDOVER,
                        f"{self.target.url}: Milvus has not taken its index into use",
                    )  # fmt: skip

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
        counts = self._query(self._having(labels), ["count(*)"])
        return int(counts[0]["count(*)"])

    def find(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, int]]:
        firsts: dict[str, tuple[np.ndarray, int]] = {}
        for start in range(0, len(names), _NAMES):
            for each in self._named(list(names[start : start + _NAMES])):
                name, row, code = each["id"], int(each["row"]), each["code"]
                if name not in firsts or row < firsts[name][1]:
                    firsts[name] = code_of(code), row
        return firsts

    def _named(self, names: list[str]) -> list[dict[str, Any]]:
        """The items with one of these ids; of an id that more than `MOST_ROWS` items share, some."""
        listed = ", ".join(quoted(name, self.target) for name in names)
        records = self._query(f"id in [{listed}]", ["id", "row", "code"], limit=MOST_ROWS)
        if len(records) < MOST_ROWS or len(names) == 1:
            return records
        half = len(names) // 2  # the items of one id may have left no room for another's
        return self._named(names[:half]) + self._named(names[half:])

    def search(
        self,
        codes: np.ndarray,
        k: int,
        *,
        radius: int | None = None,
        labels: Sequence[int] = (),
        nprobe: int | None = None,
        exact: bool = False,
        with_codes: bool = False,
    ) -> list[Hits]:
        params: dict[str, Any] = {}
        lists = self._record if self._record is not None and self._record.index_type == "ivf" else None
        if lists and radius is not None:
            return self._within(codes, k, radius, labels)
        if radius is not None:  # range_filter ≤ distance < radius
            params |= {"radius": radius + 1, "range_filter": 0}
        if lists:
            params["nprobe"] = list_count(lists) if exact else probe_count(lists, nprobe)
        hits: list[Hits] = []
        fields = ["id", "label"] if self._record is not None and self._record.labels != "none" else ["id"]
        step = max(1, min(1024, _ANSWERS // k))
        with translated(self.target):
            self._load()
            for start in range(0, len(codes), step):
                neighbors = self._client.search(
                    self.name, [code.tobytes() for code in codes[start : start + step]], limit=k, anns_field="code",
                    filter=self._having(labels), output_fields=fields, timeout=_BUILD,
                    search_params={"metric_type": "HAMMING", "params": params}, consistency_level="Strong",
                )  # fmt: skip
                hits += [hits_of(near) for near in neighbors]
        return coded(hits, codes.shape[1], self._query, self.target) if with_codes else hits

    def _within(self, codes: np.ndarray, k: int, radius: int, labels: Sequence[int]) -> list[Hits]:
        """Of the k nearest those within the radius, in an index of type ivf.

        Its own range search ends where a list, or in later versions a few in a row, has nothing within the radius,
        whatever nprobe. So the nearest are asked for, more and more, until one lies beyond it.
        """
        asked = min(k, _FIRST)
        hits = self.search(codes, asked, labels=labels, exact=True)
        while asked < k:
            cut_off = [n for n, near in enumerate(hits) if len(near.rows) == asked and near.distances[-1] <= radius]
            asked = min(k, _TIMES * asked)
            for n, near in zip(cut_off, self.search(codes[cut_off], asked, labels=labels, exact=True), strict=True):
                hits[n] = near
        return [near.within(radius) for near in hits]

    def _having(self, labels: Sequence[int]) -> str:
        """The condition for items with one of these labels; without labels for all."""
        if not labels:
            return ""
        listed = ", ".join(str(int(label)) for label in labels)
        many = self._record is not None and self._record.labels == "many"
        return f"array_contains_any(label, [{listed}])" if many else f"label in [{listed}]"

    def _query(self, condition: str, fields: list[str], **limit: int) -> list[dict[str, Any]]:
        with translated(self.target):
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
        if self._record is not None and not self._client.list_indexes(self.name, timeout=_REQUEST):
            index = self._client.prepare_index_params()
            lists = {"nlist": list_count(self._record)} if self._record.index_type == "ivf" else {}
            index.add_index("code", index_type=_TYPES[self._record.index_type], metric_type="HAMMING", params=lists)
            self._client.create_index(self.name, index, timeout=_REQUEST)
        self._client.load_collection(self.name, timeout=_BUILD)
        self._loaded = True


def list_count(record: Record) -> int:
    """Lists of an index of type ivf: about 4·√N, each with enough codes to be trained on."""
    return int(max(1, min(4 * record.count**0.5, record.count / 39, 65536)))


def probe_count(record: Record, nprobe: int | None = None) -> int:
    """Lists that a search scans: a sixteenth, unless told otherwise."""
    lists = list_count(record)
    return min(lists, nprobe or max(8, lists // 16))


def _wait(done: Callable[[], bool], seconds: float, failure: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SdcError(f"{failure} in {seconds} s; look at its logs")
        time.sleep(0.2)


def _described(field: dict[str, Any]) -> str:
    kind = getattr(field["type"], "name", field["type"])
    width = field.get("params", {}).get("dim")
    return f"{field['name']} ({kind}{f' of {width} bits' if width else ''})"


def _parse(url: str) -> Target:
    rest = url.partition(":")[2]
    if not rest.startswith("//"):
        return _parse_file(url, rest)
    parts = split_url(url, _FORM)
    collection = unquote(parts.path).strip("/")
    if not parts.hostname:
        raise UsageError(f"{url!r} names no host: expected {_FORM}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"give user and password of Milvus in MILVUS_TOKEN=USER:PASSWORD, not in the URL ({_FORM})")
    if parts.query or parts.fragment:
        raise UsageError(f"{url!r} has something after the collection: expected {_FORM}")
    check_name("collection", collection or "", _COLLECTION, url, _FORM)
    port = _PORT if parts.port is None else parts.port
    return Target(url, "milvus", collection, parts.hostname, port)


def _parse_file(url: str, rest: str) -> Target:
    name, _, collection = rest.partition("#")
    file = Path(name)
    if not _FILE.fullmatch(file.name):
        raise UsageError(
            f"{url!r}: the embedded Milvus takes file names of at most 36 letters, digits, '.', '_' and '-', found "
            f"{file.name!r}"
        )
    if "#" in rest:
        check_name("collection", collection, _COLLECTION, url, "milvus:FILE#COLLECTION")
    return Target(url, "milvus", collection or _DEFAULT_COLLECTION, file=file)
