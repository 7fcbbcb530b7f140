"""The features behind an index: of the store that was encoded, and of those whose items were added since.

An index numbers its items by rows: those of the store that was encoded as they are there, those of each further store
counted on from its first number, see `sdc.retrieve.index.delta.manifest.Source`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore
from sdc.files import linked_file
from sdc.retrieve.features.compact_rows import Precision, compact_rows
from sdc.retrieve.features.stored_rows import StoredRows
from sdc.retrieve.index import EncodedIndex
from sdc.retrieve.origin import Origin

_OTHERS = 500  # files that a process may have open beside those of the features


class IndexFeatures:
    """Features by the rows of an index: of one store, or of several that are read as one.

    Attributes:
        parts: that of `sdc encode`, then in the order of their first numbers those whose items were added.
        precision: what is read: the features as they are `stored`, or a copy in `float16` or `int8`.
        read_from: of each part what is read: itself, or the copy.
    """

    def __init__(
        self, parts: Sequence[StoredRows], starts: Sequence[int] = (0,), precision: Precision = "stored"
    ) -> None:
        self.parts, self.precision = parts, precision
        self.read_from = [compact_rows(part, precision) for part in parts]
        self._starts = np.array(starts, np.int64)
        self._dtype = np.result_type(*(part.dtype for part in self.read_from))

    @property
    def path(self) -> Path | None:
        """Of the store that was encoded."""
        return self.parts[0].path

    @property
    def dimension(self) -> int:
        """d, the number of values in a row."""
        return self.parts[0].dimension

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes where it is read."""
        return max(part.row_bytes for part in self.read_from)

    @property
    def original(self) -> IndexFeatures:
        """The features as they are stored."""
        return self if self.precision == "stored" else IndexFeatures(self.parts, self._starts.tolist())

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The features of `rows`, (n, d), in their order; a copy."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        if not which.any():
            return self.read_from[0].take(rows)
        out = np.empty((len(rows), self.dimension), self._dtype)
        for number in np.unique(which):
            here = which == number
            out[here] = self.read_from[number].take(rows[here] - self._starts[number])
        return out

    def blocks(self, rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
        """The features of `rows` in slices of `size` rows (the last may be shorter), each (n, d)."""
        (first, *others) = self.read_from
        if not others and isinstance(first, StoredRows):
            yield from first.blocks(rows, size)
            return
        for start in range(0, len(rows), size):
            yield self.take(rows[start : start + size])

    def verify(self) -> None:
        """Compares every byte that may be read with its checksum; raises SdcError where one differs."""
        for part in self.read_from:
            part.verify()

    def read_at_random(self) -> None:
        """Tells the system that single rows are read, else it reads 30 times as much around each."""
        for part in self.read_from:
            part.read_at_random()


def encoded_features(
    index: EncodedIndex, path: Path | None, *, verify: bool, precision: Precision = "stored"
) -> IndexFeatures:
    """The features an index was encoded from, at `path`, or where they were then, and those of what was added to it.

    Args:
        precision: read them from a copy, which is made where there is none, see `sdc.retrieve.features.compact_rows`.

    Raises:
        UsageError: the index records none, or these are others.
        SdcError: they are missing or damaged, or have fewer rows than the index refers to.
    """
    store, added = _encoded(index, path, verify=verify), added_sources(index)
    parts = [part.rows for part in (index.items.stored, index.queries) if part is not None]
    end = min((source["first"] for source in index.metadata.get("sources", [])), default=np.iinfo(np.int64).max)
    last = max(int(rows[: np.searchsorted(rows, end)].max(initial=0)) for rows in parts)
    if last >= len(store):
        raise SdcError(f"{store.path} has {len(store)} rows, but the index refers to row {last}")
    return _joined(index, store, added, verify=verify, precision=precision)


def pushed_features(origin: Origin, path: Path | None, precision: Precision = "stored") -> IndexFeatures:
    """As `encoded_features`, of an index that was pushed elsewhere: its sources have absolute paths."""
    added = [(each["first"], Path(each["path"]), each["fingerprint"]) for each in origin.metadata.get("sources", [])]
    return _joined(origin, _encoded(origin, path, verify=False), added, verify=False, precision=precision)


def _encoded(origin: Origin, path: Path | None, *, verify: bool) -> StoredRows:
    recorded, fingerprint = origin.recorded("features")
    store = FeatureStore(path or recorded, verify=verify)
    if store.fingerprint != fingerprint:
        raise UsageError(
            f"{origin.path} was encoded from features {fingerprint}, but {store.path} has {store.fingerprint}: "
            "name the right ones with --features, or encode again"
        )
    return StoredRows.of(store)


def _joined(
    origin: Origin, store: StoredRows, added: list[tuple[int, Path, str]], *, verify: bool, precision: Precision
) -> IndexFeatures:
    _allow_files(len(added))
    further = [_features(origin, path, expected, verify=verify) for _, path, expected in added]
    return IndexFeatures([store, *further], [0, *(first for first, _, _ in added)], precision)


def _features(origin: Origin, path: Path, expected: str, *, verify: bool) -> StoredRows:
    store = FeatureStore(path, verify=verify)
    if store.fingerprint != expected:
        raise UsageError(
            f"items of {origin.path} were added from features {expected}, but {path} has {store.fingerprint}: put the "
            "right ones back, or encode all features anew"
        )
    return StoredRows.of(store)


def missing_features(index: EncodedIndex) -> str | None:
    """Why the features of an index cannot be read: they are not `recorded`, or not `at` a path. None if all are there.

    Those of what was added count too.
    """
    if not index.metadata.get("features"):
        return "recorded"
    paths = [index.recorded("features")[0], *(path for _, path, _ in added_sources(index))]
    return next((f"at {path}" for path in paths if not path.exists()), None)


def _allow_files(count: int) -> None:
    """Makes room for so many open files, where the system lets a process have more than it has at first."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = count + _OTHERS if hard == resource.RLIM_INFINITY else min(count + _OTHERS, hard)
        if soft != resource.RLIM_INFINITY and soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def added_sources(index: EncodedIndex) -> list[tuple[int, Path, str]]:
    """First number, path and fingerprint of each store whose items were added, where some of them are still there."""
    folder = linked_file(index.path).parent if index.path else Path()
    stores = []
    for source in index.metadata.get("sources", []):
        first, count = source["first"], source["count"]
        if index.items.count(first, first + count):
            stores.append((first, Path(os.path.normpath(folder / source["path"])), source["fingerprint"]))
    return stores
