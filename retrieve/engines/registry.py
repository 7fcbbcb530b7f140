"""The engines by name."""

from __future__ import annotations

from sdc.errors import UsageError
from sdc.retrieve.engines.base import Engine
from sdc.retrieve.engines.milvus import Milvus
from sdc.retrieve.engines.pgvector import Pgvector
from sdc.retrieve.engines.urls import Target, shown_url

# The name of an engine is the scheme of its URLs. Its client is imported when it is opened.
ENGINES: dict[str, type[Engine]] = {"milvus": Milvus, "pgvector": Pgvector}


def url_forms() -> list[str]:
    """The forms of the URLs of all engines, for messages."""
    return [engine.form for engine in ENGINES.values()]


def index_types() -> list[str]:
    """The index types that any engine has."""
    return list(dict.fromkeys(name for engine in ENGINES.values() for name in engine.index_types))


def is_url(text: object) -> bool:
    """Whether this names another engine, not a file: it begins with the name of one and a colon, or is another URL."""
    if not isinstance(text, str):
        return False
    scheme, colon, rest = text.partition(":")
    return bool(colon) and (scheme.lower() in ENGINES or (scheme.isalnum() and rest.startswith("//")))


def parse(url: str) -> Target:
    """Takes a URL apart.

    Raises:
        UsageError: it is none of these forms; the message says which part is wrong.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or scheme.lower() not in ENGINES:
        raise UsageError(f"{shown_url(url)} names no engine: expected {', or '.join(url_forms())}")
    return ENGINES[scheme.lower()].parse(url)


def engine_of(target: Target) -> type[Engine]:
    """The class of the target's engine."""
    return ENGINES[target.engine]


def connect(target: Target, *, create: bool) -> Engine:
    """Opens the engine.

    Args:
        create: an embedded engine's file may be made.

    Raises:
        UsageError: its client is not installed.
        SdcError: it can't be reached, or refuses us.
    """
    return engine_of(target)(target, create=create)
