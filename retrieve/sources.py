"""The features behind an index: of the store that was encoded, and of those whose items were added since.

An index numbers its items by rows: those of the store that was encoded as they are there, those of each further store
counted on from its first number, see `sdc.retrieve.living.manifest.Source`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from sdc.artifacts import SdcError, UsageError
from sdc.extract.store import FeatureStore
from sdc.retrieve.index import Index


class Features(Protocol):
    """Features by rows: a feature store, or several that are read as one."""

    @property
    def dimension(self) -> int: ...

    def take(self, rows: np.ndarray) -> np.ndarray: ...

    def blocks(self, rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]: ...


class Sources:
    """Feature stores that are read as one, by the rows of an index.

    Attributes:
        stores: in the order of their first numbers, that of `sdc encode` first.
        path: of the first.
    """

    def __init__(self, stores: list[FeatureStore], firsts: list[int]) -> None:
        self.stores, self._firsts = stores, np.array(firsts, np.int64)
        self.path = stores[0].path

    @property
    def dimension(self) -> int:
        """d, the number of values in a row."""
        return self.stores[0].dimension

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The features of `rows`, (n, d), in their order; a copy."""
        which = np.searchsorted(self._firsts, rows, side="right") - 1
        if len(self.stores) == 1 or not which.any():
            return self.stores[0].take(rows)
        kind = np.result_type(*(store.features.dtype for store in self.stores))
        out = np.empty((len(rows), self.dimension), kind)
        for number in np.unique(which):
            here = which == number
            out[here] = self.stores[number].take(rows[here] - self._firsts[number])
        return out

    def blocks(self, rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
        """The features of `rows` in slices of `size` rows (the last may be shorter), each (n, d)."""
        if len(self.stores) == 1:
            yield from self.stores[0].blocks(rows, size)
            return
        for start in range(0, len(rows), size):
            yield self.take(rows[start : start + size])


def encoded_features(index: Index, path: Path | None, *, verify: bool) -> Sources:
    """The features an index was encoded from, at `path`, or where they were then, and those of what was added to it.

    Raises:
        UsageError: the index records none, or these are others.
        SdcError: they are missing or damaged, or have fewer rows than the index refers to.
    """
    recorded, fingerprint = index.recorded("features")
    store = FeatureStore(path or recorded, verify=verify)
    if store.fingerprint != fingerprint:
        raise UsageError(
            f"{index.path} was encoded from features {fingerprint}, but {store.path} has {store.fingerprint}: "
            "name the right ones with --features, or encode again"
        )
    added = _added(index)
    parts = [part.rows for part in (index.items.base, index.queries) if part is not None]
    end = min((source["first"] for source in index.metadata.get("sources", [])), default=np.iinfo(np.int64).max)
    last = max(int(rows[: np.searchsorted(rows, end)].max(initial=0)) for rows in parts)
    if last >= len(store):
        raise SdcError(f"{store.path} has {len(store)} rows, but the index refers to row {last}")
    stores = [store]
    for _, where, expected in added:
        further = FeatureStore(where, verify=verify)
        if further.fingerprint != expected:
            raise UsageError(
                f"items of {index.path} were added from features {expected}, but {where} has {further.fingerprint}: "
                "put the right ones back, or encode all features anew"
            )
        stores.append(further)
    return Sources(stores, [0, *(first for first, *_ in added)])


def lacking(index: Index) -> str | None:
    """What features are not, `recorded` or `at` some place, those of what was added too; None where all are there."""
    if not index.metadata.get("features"):
        return "recorded"
    places = [index.recorded("features")[0], *(where for _, where, _ in _added(index))]
    return next((f"at {where}" for where in places if not where.exists()), None)


def _added(index: Index) -> list[tuple[int, Path, str]]:
    """First number, path and fingerprint of each store whose items were added, where some of them are still there."""
    folder = index.path.parent if index.path else Path()
    found = []
    for source in index.metadata.get("sources", []):
        first, count = source["first"], source["count"]
        if index.items.count(first, first + count):
            found.append((first, Path(os.path.normpath(folder / source["path"])), source["fingerprint"]))
    return found
