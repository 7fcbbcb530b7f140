"""PostgreSQL with the extension pgvector: a code is a bit(n) whose character j is our bit j."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.retrieve.engines.base import Engine, Hits, PushBatch, Record, foreign
from sdc.retrieve.engines.postgres_table import PostgresTable
from sdc.retrieve.engines.urls import Target, check_name, split_url

_FORM = "pgvector://[USER@]HOST:PORT/DATABASE/TABLE"
_TABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}")
_NEEDED = (0, 8)  # of pgvector: its filtered searches go on until k are found
_WIDTH, _MOST_HNSW_BITS = 1000, 64000
_LABELS = {"none": None, "one": "bigint", "many": "bigint[]"}


class Pgvector(Engine):
    """One table."""

    title = "PostgreSQL"
    form = _FORM
    index_types = ("flat", "hnsw")
    most = 1 << 20

    def __init__(self, target: Target, *, create: bool = False) -> None:
        self.target = target
        self._record: Record | None = None
        self._table = PostgresTable(target)
        self._find_extension()

    @staticmethod
    def parse(url: str) -> Target:
        return _parse(url)

    def close(self) -> None:
        self._table.close()

    def record(self) -> Record | None:
        columns = self._table.ask(
            "SELECT attname, format_type(atttypid, atttypmod), obj_description(to_regclass({text}), 'pg_class') "
            "FROM pg_attribute WHERE attrelid = to_regclass({text}) AND attnum > 0 AND NOT attisdropped",
        )
        if not columns:
            return None
        record = Record.of_text(columns[0][2])
        types = {name: kind for name, kind, _ in columns}
        if record is None or types.get("code") != f"bit({record.bits})" or not types.keys() >= {"row", "id"}:
            raise foreign(self.target, "columns", [f"{name} {kind}" for name, kind in types.items()])
        self._record = record
        return record

    def create(self, record: Record) -> None:
        if record.index_type == "hnsw" and record.bits > _MOST_HNSW_BITS:
            raise UsageError(f"an hnsw index takes at most {_MOST_HNSW_BITS} bits, found {record.bits}: push it flat")
        self._check_extension()
        kind = _LABELS[record.labels]
        label = f", label {kind} NOT NULL" if kind else ""
        with self._table.transaction():
            columns = f"row bigint PRIMARY KEY, id text NOT NULL, code bit({record.bits}) NOT NULL{label}"
            self._table.do(f"CREATE TABLE {{name}} ({columns})")
            self._table.do("COMMENT ON TABLE {name} IS {record}", record=record.text())
        self._record = record

    def drop(self) -> None:
        self._table.do("DROP TABLE {name}")

    def insert(self, batch: PushBatch) -> None:
        width = batch.codes.shape[1] * 8
        digits = np.unpackbits(batch.codes, axis=1, bitorder="little") + np.uint8(ord("0"))
        codes = [code.decode() for code in np.ascontiguousarray(digits).view(f"S{width}").ravel().tolist()]
        columns: list[Any] = [batch.rows.tolist(), batch.ids, codes]
        names = "row, id, code"
        if batch.labels is not None:
            columns.append(batch.labels)
            names += ", label"
        self._table.copy(names, zip(*columns, strict=True))

    def present(self, first: int, last: int) -> np.ndarray:
        rows = self._table.ask("SELECT row FROM {name} WHERE row BETWEEN %s AND %s", (first, last))
        return np.array([row for (row,) in rows], np.int64)

    def finish(self, record: Record) -> None:
        if record.index_type == "hnsw":
            made = self._table.ask(
                "SELECT 1 FROM pg_index WHERE indrelid = to_regclass({text}) AND NOT indisprimary AND indisvalid"
            )
            if not made:
                self._table.do("CREATE INDEX ON {name} USING hnsw (code bit_hamming_ops)")
        self._table.do("VACUUM (ANALYZE) {name}")

    def count(self, labels: Sequence[int] = ()) -> int:
        where, values = self._having(labels)
        return int(self._table.ask("SELECT count(*) FROM {name}" + where, values)[0][0])

    def find(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, int]]:
        records = self._table.ask(
            "SELECT DISTINCT ON (id) id, code::text, row FROM {name} WHERE id = ANY(%s::text[]) ORDER BY id, row",
            (list(names),),
        )
        return {name: (_packed([code], len(code) // 8)[0], int(row)) for name, code, row in records}

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
        where, values = self._having(labels)
        approximate = not exact and radius is None and self._record is not None and self._record.index_type == "hnsw"
        distance = f"code <~> %s::bit({codes.shape[1] * 8})"
        if radius is not None:
            where += f"{' AND' if where else ' WHERE'} {distance} <= %s"
        # With the row in the order no index helps, and ties come as ours do.
        order = distance if approximate else "d, row"
        label = ", label" if self._record is not None and self._record.labels != "none" else ""
        code = ", code::text" if with_codes else ""
        statement = f"SELECT row, {distance} AS d, id{label}{code} FROM {{name}}{where} ORDER BY {order} LIMIT %s"
        hits = []
        digits = np.unpackbits(codes, axis=1, bitorder="little") + np.uint8(ord("0"))
        with self._table.transaction():
            if approximate:
                self._table.do(f"SET LOCAL hnsw.ef_search = {max(100, min(_WIDTH, 2 * k))}")
                self._table.do("SET LOCAL hnsw.iterative_scan = strict_order")
            else:
                self._table.do("SET LOCAL enable_indexscan = off")
            for row in digits:
                code = row.tobytes().decode()
                given = [code, *values, *((code, radius) if radius is not None else ())]
                records = self._table.ask(statement, (*given, *((code,) if approximate else ()), k))
                columns: list[Any] = list(zip(*records, strict=True)) or [()] * (3 + bool(label) + with_codes)
                found = _packed(columns.pop(), codes.shape[1]) if with_codes else None
                rows, found_at, ids, *held = columns
                hits.append(Hits.sorted(rows, found_at, ids, held[0] if held else None, found))
        return hits

    def _having(self, labels: Sequence[int]) -> tuple[str, tuple[list[int], ...]]:
        """The condition for items with one of these labels, and its values; without labels for all."""
        if not labels:
            return "", ()
        many = self._record is not None and self._record.labels == "many"
        return (" WHERE label && %s::bigint[]" if many else " WHERE label = ANY(%s::bigint[])"), ([*map(int, labels)],)

    def _find_extension(self) -> None:
        """Puts the schema of pgvector, which may be one of its own, on the search path."""
        self._table.ask(
            "SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), "
            "quote_ident(nspname)), false) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace "
            "WHERE extname = 'vector'"
        )

    def _check_extension(self) -> None:
        """Makes the extension pgvector where it is missing; raises SdcError where it is too old."""
        self._table.do("CREATE EXTENSION IF NOT EXISTS vector")
        (version,) = self._table.ask("SELECT extversion FROM pg_extension WHERE extname = 'vector'")[0]
        if tuple(int(part) for part in version.split(".")[:2]) < _NEEDED:
            raise SdcError(
                f"{self.target.url} has pgvector {version}, expected 0.8 or newer: ALTER EXTENSION vector UPDATE"
            )


def _packed(texts: Sequence[str], width: int) -> np.ndarray:
    """Codes (n, width) from the digits of their bits."""
    digits = np.frombuffer("".join(texts).encode(), np.uint8).reshape(len(texts), 8 * width)
    return np.packbits(digits - np.uint8(ord("0")), axis=1, bitorder="little")


def _parse(url: str) -> Target:
    parts = split_url(url, _FORM)
    if parts.password is not None:
        raise UsageError(f"the password of PostgreSQL belongs into PGPASSWORD or ~/.pgpass, not into the URL ({_FORM})")
    names = [unquote(name) for name in parts.path.split("/")[1:]]
    if not url.partition(":")[2].startswith("//") or len(names) != 2 or not names[0] or parts.fragment:
        raise UsageError(f"{url!r} names no database and table: expected {_FORM}")
    check_name("table", names[1], _TABLE, url, _FORM)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    host, port = options.pop("host", parts.hostname or ""), options.pop("port", None)
    if options or (port is not None and not port.isdecimal()):
        wrong = f"port={port}" if not options else ", ".join(options)
        raise UsageError(f"{url!r}: expected only host=FOLDER and port=NUMBER after the '?', found {wrong}")
    user = None if not parts.username else unquote(parts.username)
    return Target(url, "pgvector", names[1], host, int(port) if port else parts.port, None, user, names[0])
