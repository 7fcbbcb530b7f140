"""A table of PostgreSQL: its connection, statements that name it, and its errors as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sdc.errors import SdcError
from sdc.retrieve.engines.base import client
from sdc.retrieve.engines.urls import Target

_CONNECT_SECONDS = 4


class PostgresTable:
    """A table of which there need be nothing yet; connected from construction to `close`.

    Raises:
        UsageError: the client is not installed.
        SdcError: PostgreSQL can't be reached, or refuses us; so do the methods.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._psycopg = client("psycopg", "pgvector")
        self._sql = client("psycopg.sql", "pgvector")
        self._name = self._sql.Identifier(*target.collection.split("."))
        given = {"host": target.host, "port": target.port, "user": target.user, "dbname": target.database}
        with self._translated():
            self._connection = self._psycopg.connect(
                **{key: value for key, value in given.items() if value},
                connect_timeout=_CONNECT_SECONDS,
                autocommit=True,
            )

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that happens in it happens, or nothing of it."""
        with self._translated(), self._connection.transaction():
            yield

    def copy(self, names: str, rows: Iterable[Sequence[Any]]) -> None:
        """Inserts rows of these columns."""
        statement = self._sql.SQL("COPY {name} (" + names + ") FROM STDIN").format(name=self._name)
        with self.transaction(), self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)

    def _composed(self, statement: str, **values: str) -> Any:
        text = self._name.as_string(None)
        literals = {key: self._sql.Literal(value) for key, value in {"text": text, **values}.items()}
        return self._sql.SQL(statement).format(name=self._name, **literals)

    def do(self, statement: str, **values: str) -> None:
        """Runs a statement; {name} in it is the table, {text} its name as a literal, others are `values`."""
        with self._translated():
            self._connection.execute(self._composed(statement, **values))

    def ask(self, statement: str, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows that a query gives; %s in it are `values`."""
        with self._translated():
            rows: list[tuple[Any, ...]] = self._connection.execute(self._composed(statement), values).fetchall()
        return rows

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raises the client's errors as SdcError."""
        try:
            yield
        except self._psycopg.Error as error:
            message = " ".join((error.diag.message_primary or str(error)).split())[:300]
            raise SdcError(f"{self.target.url}: {self._advice(error, message)}") from None

    def _advice(self, error: Any, text: str) -> str:
        errors = self._psycopg.errors
        if isinstance(error, (errors.UndefinedFile, errors.FeatureNotSupported)) and "vector" in text:
            return f"pgvector is not installed in this PostgreSQL ({text})"
        if isinstance(error, errors.UndefinedFunction) and "<~>" in text:
            return f"pgvector is missing or too old ({text}): CREATE EXTENSION vector, or ALTER EXTENSION vector UPDATE"
        if isinstance(error, errors.UndefinedTable):
            return f"the table is gone ({text}): push again"
        if isinstance(error, errors.InsufficientPrivilege):
            return f"PostgreSQL refuses us ({text}): have the rights granted, or the extension made by an administrator"
        if isinstance(error, errors.UniqueViolation):
            return f"another push is under way there ({text}): let one of them finish"
        if isinstance(error, self._psycopg.OperationalError) and error.sqlstate is None:
            return _connecting(text)
        return f"PostgreSQL refuses: {text}"


def _connecting(text: str) -> str:
    """Why no connection comes about, without libpq's preamble and guesses."""
    reason = text.rpartition("failed: ")[2].partition(" Is the server running")[0]
    if "database" in reason and "does not exist" in reason:
        return f"{reason}: make it first (`createdb`)"
    if any(word in reason for word in ("password", "authentication", "role")):
        return f"{reason}: give the user in the URL and the password in PGPASSWORD or ~/.pgpass"
    return f"no PostgreSQL can be reached ({reason}): is it running there?"
