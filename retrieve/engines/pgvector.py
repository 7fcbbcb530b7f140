"""PostgreSQL with the extension pgvector: a code is a bit(n) whose character j is our bit j."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.retrieve.engines.base import Batch, Hits, Record, client, foreign
from sdc.retrieve.engines.urls import Target

_CONNECT = 4  # seconds
_NEEDED = (0, 8)  # of pgvector: its filtered searches go on until k are found
_WIDTH, _MOST_HNSW_BITS = 1000, 64000
_LABELS = {"none": None, "one": "bigint", "many": "bigint[]"}


class Pgvector:
    """One table; see `sdc.retrieve.engines.base.Engine`."""

    most = 1 << 20

    def __init__(self, target: Target) -> None:
        self.target = target
        self._psycopg = client("psycopg", "pgvector")
        self._sql = client("psycopg.sql", "pgvector")
        self._held: Record | None = None
        self.name = self._sql.Identifier(*target.collection.split("."))
        given = {"host": target.host, "port": target.port, "user": target.user, "dbname": target.database}
        with self._translating():
            self._connection = self._psycopg.connect(
                **{key: value for key, value in given.items() if value}, connect_timeout=_CONNECT, autocommit=True
            )
        self._see_extension()

    def close(self) -> None:
        self._connection.close()

    def record(self) -> Record | None:
        columns = self._ask(
            "SELECT attname, format_type(atttypid, atttypmod), obj_description(to_regclass({text}), 'pg_class') "
            "FROM pg_attribute WHERE attrelid = to_regclass({text}) AND attnum > 0 AND NOT attisdropped",
        )
        if not columns:
            return None
        record = Record.of_text(columns[0][2])
        types = {name: kind for name, kind, _ in columns}
        if record is None or types.get("code") != f"bit({record.bits})" or not types.keys() >= {"row", "id"}:
            raise foreign(self.target, "columns", [f"{name} {kind}" for name, kind in types.items()])
        self._held = record
        return record

    def create(self, record: Record) -> None:
        if record.index_type == "hnsw" and record.bits > _MOST_HNSW_BITS:
            raise UsageError(f"an hnsw index takes at most {_MOST_HNSW_BITS} bits, found {record.bits}: push it flat")
        self._extension()
        kind = _LABELS[record.labels]
        label = f", label {kind} NOT NULL" if kind else ""
        with self._translating(), self._connection.transaction():
            columns = f"row bigint PRIMARY KEY, id text NOT NULL, code bit({record.bits}) NOT NULL{label}"
            self._do(f"CREATE TABLE {{name}} ({columns})")
            self._do("COMMENT ON TABLE {name} IS {record}", record=record.text())
        self._held = record

    def drop(self) -> None:
        self._do("DROP TABLE {name}")

    def insert(self, batch: Batch) -> None:
        width = batch.codes.shape[1] * 8
        digits = np.unpackbits(batch.codes, axis=1, bitorder="little") + np.uint8(ord("0"))
        codes = [code.decode() for code in np.ascontiguousarray(digits).view(f"S{width}").ravel().tolist()]
        columns: list[Any] = [batch.rows.tolist(), batch.ids, codes]
        names = "row, id, code"
        if batch.labels is not None:
            columns.append(batch.labels)
            names += ", label"
        statement = self._sql.SQL("COPY {name} (" + names + ") FROM STDIN").format(name=self.name)
        with (
            self._translating(),
            self._connection.transaction(),
            self._connection.cursor() as cursor,
            cursor.copy(statement) as copy,
        ):
            for values in zip(*columns, strict=True):
                copy.write_row(values)

    def present(self, first: int, last: int) -> np.ndarray:
        found = self._ask("SELECT row FROM {name} WHERE row BETWEEN %s AND %s", (first, last))
        return np.array([row for (row,) in found], np.int64)

    def finish(self, record: Record) -> None:
        if record.index_type == "hnsw":
            made = self._ask(
                "SELECT 1 FROM pg_index WHERE indrelid = to_regclass({text}) AND NOT indisprimary AND indisvalid"
            )
            if not made:
                self._do("CREATE INDEX ON {name} USING hnsw (code bit_hamming_ops)")
        self._do("VACUUM (ANALYZE) {name}")

    def count(self, labels: Sequence[int] = ()) -> int:
        where, values = self._having(labels)
        return int(self._ask("SELECT count(*) FROM {name}" + where, values)[0][0])

    def find(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, int]]:
        found = self._ask(
            "SELECT DISTINCT ON (id) id, code::text, row FROM {name} WHERE id = ANY(%s::text[]) ORDER BY id, row",
            (list(names),),
        )
        zero = np.uint8(ord("0"))
        bits = {name: np.frombuffer(code.encode(), np.uint8) - zero for name, code, _ in found}
        return {name: (np.packbits(bits[name], bitorder="little"), int(row)) for name, _, row in found}

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
        where, values = self._having(labels)
        approximate = not exact and radius is None and self._held is not None and self._held.index_type == "hnsw"
        distance = f"code <~> %s::bit({codes.shape[1] * 8})"
        if radius is not None:
            where += f"{' AND' if where else ' WHERE'} {distance} <= %s"
        # With the row in the order no index helps, and ties come as ours do.
        order = distance if approximate else "d, row"
        statement = f"SELECT row, {distance} AS d, id FROM {{name}}{where} ORDER BY {order} LIMIT %s"
        hits = []
        digits = np.unpackbits(codes, axis=1, bitorder="little") + np.uint8(ord("0"))
        with self._translating(), self._connection.transaction():
            if approximate:
                self._do(f"SET LOCAL hnsw.ef_search = {max(100, min(_WIDTH, 2 * k))}")
                self._do("SET LOCAL hnsw.iterative_scan = strict_order")
            else:
                self._do("SET LOCAL enable_indexscan = off")
            for row in digits:
                code = row.tobytes().decode()
                given = [code, *values, *((code, radius) if radius is not None else ())]
                found = self._ask(statement, (*given, *((code,) if approximate else ()), k))
                columns = list(zip(*found, strict=True)) or [(), (), ()]
                hits.append(Hits.sorted(columns[0], columns[1], columns[2]))
        return hits

    def _having(self, labels: Sequence[int]) -> tuple[str, tuple[list[int], ...]]:
        """The condition for items with one of these labels, and its values; without labels for all."""
        if not labels:
            return "", ()
        many = self._held is not None and self._held.labels == "many"
        return (" WHERE label && %s::bigint[]" if many else " WHERE label = ANY(%s::bigint[])"), ([*map(int, labels)],)

    def _see_extension(self) -> None:
        """Makes names of pgvector known that were put into a schema of its own."""
        self._ask(
            "SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), "
            "quote_ident(nspname)), false) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace "
            "WHERE extname = 'vector'"
        )

    def _extension(self) -> None:
        """Sees to it that pgvector is there, and new enough."""
        self._do("CREATE EXTENSION IF NOT EXISTS vector")
        (version,) = self._ask("SELECT extversion FROM pg_extension WHERE extname = 'vector'")[0]
        if tuple(int(part) for part in version.split(".")[:2]) < _NEEDED:
            raise SdcError(
                f"{self.target.url} has pgvector {version}, expected 0.8 or newer: ALTER EXTENSION vector UPDATE"
            )

    def _compose(self, statement: str, **values: str) -> Any:
        text = self.name.as_string(None)
        literals = {key: self._sql.Literal(value) for key, value in {"text": text, **values}.items()}
        return self._sql.SQL(statement).format(name=self.name, **literals)

    def _do(self, statement: str, **values: str) -> None:
        with self._translating():
            self._connection.execute(self._compose(statement, **values))

    def _ask(self, statement: str, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        with self._translating():
            found: list[tuple[Any, ...]] = self._connection.execute(self._compose(statement), values).fetchall()
        return found

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """The client's errors, as ours."""
        try:
            yield
        except self._psycopg.Error as error:
            said = " ".join((error.diag.message_primary or str(error)).split())[:300]
            raise SdcError(f"{self.target.url}: {self._advice(error, said)}") from None

    def _advice(self, error: Any, said: str) -> str:
        errors = self._psycopg.errors
        if isinstance(error, (errors.UndefinedFile, errors.FeatureNotSupported)) and "vector" in said:
            return f"pgvector is not installed in this PostgreSQL ({said})"
        if isinstance(error, errors.UndefinedFunction) and "<~>" in said:
            return f"pgvector is missing or too old ({said}): CREATE EXTENSION vector, or ALTER EXTENSION vector UPDATE"
        if isinstance(error, errors.UndefinedTable):
            return f"the table is gone ({said}): push again"
        if isinstance(error, errors.InsufficientPrivilege):
            return f"PostgreSQL refuses us ({said}): have the rights granted, or the extension made by an administrator"
        if isinstance(error, errors.UniqueViolation):
            return f"another push is under way there ({said}): let one of them finish"
        if isinstance(error, self._psycopg.OperationalError) and error.sqlstate is None:
            return _connecting(said)
        return f"PostgreSQL refuses: {said}"


def _connecting(said: str) -> str:
    """Why no connection comes about, without libpq's preamble and guesses."""
    reason = said.rpartition("failed: ")[2].partition(" Is the server running")[0]
    if "database" in reason and "does not exist" in reason:
        return f"{reason}: make it first (`createdb`)"
    if any(word in reason for word in ("password", "authentication", "role")):
        return f"{reason}: give the user in the URL and the password in PGPASSWORD or ~/.pgpass"
    return f"no PostgreSQL can be reached ({reason}): is it running there?"
