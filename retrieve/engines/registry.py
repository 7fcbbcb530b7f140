"""The engines by name, and what each can do."""

from __future__ import annotations

from sdc.retrieve.engines.base import LONGEST_ID, Engine
from sdc.retrieve.engines.urls import Target


def index_types(target: Target) -> tuple[str, ...]:
    """What `--index-type` may be there; the first is exact."""
    if target.engine == "pgvector":
        return ("flat", "hnsw")
    return ("flat",) if target.file else ("flat", "ivf")


def longest_id(target: Target) -> int | None:
    """Most bytes of an id there; None where any fits."""
    return LONGEST_ID if target.engine == "milvus" else None


def connect(target: Target, *, create: bool) -> Engine:
    """Opens the engine.

    Args:
        create: an embedded engine's file may be made.

    Raises:
        UsageError: its client is not installed.
        SdcError: it can't be reached, or refuses us.
    """
    if target.engine == "milvus":
        from sdc.retrieve.engines.milvus import Milvus

        return Milvus(target, create=create)
    from sdc.retrieve.engines.pgvector import Pgvector

    return Pgvector(target)
