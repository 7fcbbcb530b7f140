"""Where codes live in another engine: `milvus://HOST:PORT/COLLECTION`, `milvus:FILE`, `pgvector://HOST:PORT/DB/TABLE`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sdc.errors import UsageError

MILVUS = "milvus://HOST:PORT/COLLECTION or milvus:FILE"
PGVECTOR = "pgvector://[USER@]HOST:PORT/DATABASE/TABLE"
_MILVUS_PORT, _DEFAULT_COLLECTION = 19530, "sdc"
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_TABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}")
_FILE = re.compile(r"[A-Za-z0-9._-]{1,36}")  # what milvus-lite takes


@dataclass(frozen=True)
class Target:
    """A parsed URL.

    Attributes:
        url: as it was given; there is no password in it.
        engine: milvus or pgvector.
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


def is_url(text: object) -> bool:
    """Whether this names another engine, not a file: it begins with the name of one and a colon, or is another URL."""
    if not isinstance(text, str):
        return False
    scheme, colon, rest = text.partition(":")
    return bool(colon) and (scheme.lower() in _PARSERS or (scheme.isalnum() and rest.startswith("//")))


def parse(url: str) -> Target:
    """Takes a URL apart.

    Raises:
        UsageError: it is none of these forms; the message says which part is wrong.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or scheme.lower() not in _PARSERS:
        raise UsageError(f"{_shown(url)} names no engine: expected {MILVUS}, or {PGVECTOR}")
    return _PARSERS[scheme.lower()](url)


def _milvus(url: str) -> Target:
    rest = url.partition(":")[2]
    if not rest.startswith("//"):
        return _embedded(url, rest)
    parts = _split(url, MILVUS)
    collection = unquote(parts.path).strip("/")
    if not parts.hostname:
        raise UsageError(f"{url!r} names no host: expected {MILVUS}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"give user and password of Milvus in MILVUS_TOKEN=USER:PASSWORD, not in the URL ({MILVUS})")
    if parts.query or parts.fragment:
        raise UsageError(f"{url!r} has something after the collection: expected {MILVUS}")
    _check_name("collection", collection or "", _COLLECTION, url, MILVUS)
    port = _MILVUS_PORT if parts.port is None else parts.port
    return Target(url, "milvus", collection, parts.hostname, port)


def _embedded(url: str, rest: str) -> Target:
    name, _, collection = rest.partition("#")
    file = Path(name)
    if not _FILE.fullmatch(file.name):
        raise UsageError(
            f"{url!r}: the embedded Milvus takes file names of at most 36 letters, digits, '.', '_' and '-', found "
            f"{file.name!r}"
        )
    if "#" in rest:
        _check_name("collection", collection, _COLLECTION, url, "milvus:FILE#COLLECTION")
    return Target(url, "milvus", collection or _DEFAULT_COLLECTION, file=file)


def _pgvector(url: str) -> Target:
    parts = _split(url, PGVECTOR)
    if parts.password is not None:
        raise UsageError(
            f"the password of PostgreSQL belongs into PGPASSWORD or ~/.pgpass, not into the URL ({PGVECTOR})"
        )
    names = [unquote(name) for name in parts.path.split("/")[1:]]
    if not url.partition(":")[2].startswith("//") or len(names) != 2 or not names[0] or parts.fragment:
        raise UsageError(f"{url!r} names no database and table: expected {PGVECTOR}")
    _check_name("table", names[1], _TABLE, url, PGVECTOR)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    host, port = options.pop("host", parts.hostname or ""), options.pop("port", None)
    if options or (port is not None and not port.isdecimal()):
        wrong = f"port={port}" if not options else ", ".join(options)
        raise UsageError(f"{url!r}: expected only host=FOLDER and port=NUMBER after the '?', found {wrong}")
    user = None if not parts.username else unquote(parts.username)
    return Target(url, "pgvector", names[1], host, int(port) if port else parts.port, None, user, names[0])


def _split(url: str, form: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # it is read only when asked for
    except ValueError as error:
        raise UsageError(f"{_shown(url)} is no URL ({error}): expected {form}") from None
    return parts


def _shown(url: str) -> str:
    """For messages: without a password, which does not belong there but may be."""
    return repr(re.sub(r"//([^/@:]*):.*@", r"//\1:…@", url))


def _check_name(what: str, name: str, allowed: re.Pattern[str], url: str, form: str) -> None:
    if not allowed.fullmatch(name):
        found = f"has {name!r} as its {what}, which must be letters, digits and '_'" if name else f"names no {what}"
        raise UsageError(f"{url!r} {found}: expected {form}")


_PARSERS: dict[str, Callable[[str], Target]] = {"milvus": _milvus, "pgvector": _pgvector}
