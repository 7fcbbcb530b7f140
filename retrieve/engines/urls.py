"""The parts of a URL that says where codes live in another engine, and what parsing such URLs shares."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from sdc.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A parsed URL.

    Attributes:
        url: as it was given; there is no password in it.
        engine: its name in `sdc.retrieve.engines.ENGINES`.
        collection: of Milvus, or the table, perhaps as SCHEMA.TABLE.
        host: name, address, or the folder of a Unix socket; empty takes the client's own default.
        port: None takes the client's own default.
        file: of the embedded Milvus.
        user, database: of PostgreSQL.
    """

    url: str
    engine: str
    collection: str
    host: str = ""
    port: int | None = None
    file: Path | None = None
    user: str | None = None
    database: str | None = None


def split_url(url: str, form: str) -> SplitResult:
    """A URL in its parts; raises UsageError, which names the expected form, where it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # it is read only when asked for
    except ValueError as error:
        raise UsageError(f"{shown_url(url)} is no URL ({error}): expected {form}") from None
    return parts


def shown_url(url: str) -> str:
    """A URL for messages, without a password, which does not belong there but may be."""
    return repr(re.sub(r"//([^/@:]*):.*@", r"//\1:…@", url))


def check_name(what: str, name: str, allowed: re.Pattern[str], url: str, form: str) -> None:
    """Raises UsageError unless the name of a collection or table is allowed."""
    if not allowed.fullmatch(name):
        problem = f"has {name!r} as its {what}, which must be letters, digits and '_'" if name else f"names no {what}"
        raise UsageError(f"{url!r} {problem}: expected {form}")
