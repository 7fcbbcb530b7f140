"""The features behind an index: of the store that was encoded, and of those whose items were added since.

An index numbers its items by rows: those of the store that was encoded as they are there, those of each further store
counted on from its first number, see `sdc.retrieve.index.delta.manifest.Source`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore
from sdc.retrieve.index import EncodedIndex, linked_file

_OTHERS = 500  # files that a process may have open beside those of the features


class AddedFeatures(NamedTuple):
    """A store whose items were added. Its other arrays are let go of, since each takes a file descriptor."""

    first: int  # its first number
    features: np.ndarray  # (n, d), a memory map


class IndexFeatures:
    """Feature stores that are read as one, by the rows of an index.

    Attributes:
        stores: that of `sdc encode`, then in the order of their first numbers those whose items were added.
        path: of the first.
    """

    def __init__(self, store: FeatureStore, added: Sequence[AddedFeatures] = ()) -> None:
        self.stores: list[FeatureStore | AddedFeatures] = [store, *added]
        self.path, self._first, self._added = store.path, store, added
        self._starts = np.array([0, *(part.first for part in added)], np.int64)
        self._dtype = np.result_type(*(part.features.dtype for part in self.stores))

    @property
    def dimension(self) -> int:
        """d, the number of values in a row."""
        return self._first.dimension

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The features of `rows`, (n, d), in their order; a copy."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        if not which.any():
            return self._first.take(rows)
        out = np.empty((len(rows), self.dimension), self._dtype)
        for number in np.unique(which):
            here = which == number
            out[here] = np.take(np.asarray(self.stores[number].features), rows[here] - self._starts[number], axis=0)
        return out

    def blocks(self, rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
        """The features of `rows` in slices of `size` rows (the last may be shorter), each (n, d)."""
        if not self._added:
            yield from self._first.blocks(rows, size)
            return
        for start in range(0, len(rows), size):
            yield self.take(rows[start : start + size])

    def read_at_random(self) -> None:
        """Tells the system that single rows are read, else it reads 30 times as much around each."""
        for part in self.stores:
            mapped: Any = part.features.base
            if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
                mapped.madvise(mmap.MADV_RANDOM)


def encoded_features(index: EncodedIndex, path: Path | None, *, verify: bool) -> IndexFeatures:
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
    parts = [part.rows for part in (index.items.stored, index.queries) if part is not None]
    end = min((source["first"] for source in index.metadata.get("sources", [])), default=np.iinfo(np.int64).max)
    last = max(int(rows[: np.searchsorted(rows, end)].max(initial=0)) for rows in parts)
    if last >= len(store):
        raise SdcError(f"{store.path} has {len(store)} rows, but the index refers to row {last}")
    _allow_files(len(added))
    return IndexFeatures(
        store,
        [AddedFeatures(first, _features(index, path, expected, verify=verify)) for first, path, expected in added],
    )


def _features(index: EncodedIndex, path: Path, expected: str, *, verify: bool) -> np.ndarray:
    store = FeatureStore(path, verify=verify)
    if store.fingerprint != expected:
        raise UsageError(
            f"items of {index.path} were added from features {expected}, but {path} has {store.fingerprint}: put the "
            "right ones back, or encode all features anew"
        )
    return store.features


def missing_features(index: EncodedIndex) -> str | None:
    """Why the features of an index cannot be read: they are not `recorded`, or not `at` a path. None if all are there.

    Those of what was added count too.
    """
    if not index.metadata.get("features"):
        return "recorded"
    paths = [index.recorded("features")[0], *(path for _, path, _ in _added(index))]
    return next((f"at {path}" for path in paths if not path.exists()), None)


def _allow_files(count: int) -> None:
    """Makes room for so many open files, where the system lets a process have more than it has at first."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = count + _OTHERS if hard == resource.RLIM_INFINITY else min(count + _OTHERS, hard)
        if soft != resource.RLIM_INFINITY and soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _added(index: EncodedIndex) -> list[tuple[int, Path, str]]:
    """First number, path and fingerprint of each store whose items were added, where some of them are still there."""
    folder = linked_file(index.path).parent if index.path else Path()
    stores = []
    for source in index.metadata.get("sources", []):
        first, count = source["first"], source["count"]
        if index.items.count(first, first + count):
            stores.append((first, Path(os.path.normpath(folder / source["path"])), source["fingerprint"]))
    return stores
