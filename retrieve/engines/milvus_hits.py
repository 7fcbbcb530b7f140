"""What Milvus answers, as hits and codes of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sdc.errors import SdcError
from sdc.retrieve.engines.base import Hits
from sdc.retrieve.engines.urls import Target

_ROWS = 4096  # asked for at once


def hits_of(near: list[dict[str, Any]]) -> Hits:
    """A hit's own id is the primary key, our row; our id is among its fields."""
    rows, distances = [hit["id"] for hit in near], [hit["distance"] for hit in near]
    fields = [hit["entity"] for hit in near]
    labels = None
    if all("label" in each for each in fields):
        labels = [each["label"] if isinstance(each["label"], int) else [*each["label"]] for each in fields]
    return Hits.sorted(rows, distances, [each["id"] for each in fields], labels)


def code_of(value: Any) -> np.ndarray:
    """A code (bits // 8,) uint8: the server gives bytes in a list, the embedded engine bytes."""
    return np.frombuffer(value[0] if isinstance(value, list) else value, np.uint8)


def coded(hits: list[Hits], width: int, query: Callable[..., list[dict[str, Any]]], target: Target) -> list[Hits]:
    """Hits with their codes of `width` bytes, which the embedded engine gives to those who ask by row alone.

    Args:
        query: gives the fields of what fulfils a condition, at most `limit` of it.

    Raises:
        SdcError: some are gone.
    """
    rows = np.unique(np.concatenate([near.rows for near in hits]))
    codes = np.empty((len(rows), width), np.uint8)
    for start in range(0, len(rows), _ROWS):
        asked = rows[start : start + _ROWS]
        found = query(f"row in {asked.tolist()}", ["row", "code"], limit=len(asked))
        if len(found) < len(asked):
            raise SdcError(f"{target.url} gives {len(found)} of {len(asked)} codes: something is changing it")
        codes[np.searchsorted(rows, [each["row"] for each in found])] = [code_of(each["code"]) for each in found]
    return [near._replace(codes=codes[np.searchsorted(rows, near.rows)]) for near in hits]
