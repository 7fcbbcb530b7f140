"""Features row by row, as they are stored: of a feature store, or of an array that somebody else made."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError
from sdc.extract.store import FeatureStore, read_layout, verify_checksums


class FeatureRows:
    """One matrix of features.

    Attributes:
        features: (n, d), most often a memory map.
        path: of the file that holds them; None of an array.
    """

    def __init__(self, features: np.ndarray, path: Path | None) -> None:
        self.features, self.path = features, path
        self._rows = np.asarray(features)  # a memory map's own indexing is slower

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dimension(self) -> int:
        """d, the number of values in a row."""
        return int(self._rows.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `take` gives."""
        return self._rows.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes where it is read."""
        return self.dimension * self._rows.dtype.itemsize

    def read_at_random(self) -> None:
        """Tells the system that single rows are read, else it reads 30 times as much around each."""
        mapped: Any = self.features.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)


class StoredRows(FeatureRows):
    """Features as they are stored.

    Attributes:
        fingerprint: of the feature store that holds them; None of an array, which nothing vouches for.
    """

    def __init__(self, features: np.ndarray, path: Path | None = None, fingerprint: str | None = None) -> None:
        super().__init__(features, path)
        self.fingerprint = fingerprint

    @classmethod
    def of(cls, store: FeatureStore) -> StoredRows:
        """Those of a store, whose other arrays are let go of: each takes a file descriptor."""
        return cls(store.features, store.path, store.fingerprint)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The features of `rows`, (n, d), in their order; a copy.

        Raises:
            SdcError: there is no such row, or an array holds NaN or Inf there. (A feature store never does.)
        """
        try:
            found: np.ndarray = np.take(self._rows, rows, axis=0)
        except IndexError:
            where = self.path or "the array"
            raise SdcError(f"{where} has {len(self)} rows, but the index refers to row {np.max(rows)}") from None
        if self.path is None and not np.isfinite(found).all():
            bad = np.asarray(rows)[~np.isfinite(found).all(axis=1)]
            raise SdcError(f"the features hold NaN or Inf in row {bad[0]}: repair them, or leave such rows out")
        return found

    def blocks(self, rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
        """The features of `rows` in slices of `size` rows; of consecutive rows a view, not a copy."""
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            if self.path is not None and (np.diff(part) == 1).all():
                yield self._rows[part[0] : part[-1] + 1]
            else:
                yield self.take(part)

    def verify(self) -> None:
        """Compares every byte with the checksums of the store; raises SdcError where one differs."""
        if self.path is None:
            return
        with self.path.open("rb") as file:
            attributes, datasets = read_layout(file, self.path)
            arrays = {name: dataset.map(file) for name, dataset in datasets.items()}
        if attributes["fingerprint"] != self.fingerprint:
            raise SdcError(f"{self.path} was replaced while in use: start again with the new file")
        verify_checksums(self.path, arrays, datasets)
