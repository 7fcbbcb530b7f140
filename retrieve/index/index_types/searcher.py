"""What every searcher of codes can do: that of each type of index, and that of a changed index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np


class Searcher(Protocol):
    """Finds the nearest codes by their positions in the database.

    `within` restricts a search to these positions, ascending and distinct. Results are ordered by
    (distance, position).
    """

    def plan(self, queries: int, k: int | None, within: np.ndarray | None = None) -> object:
        """How `search` goes about so many queries, for `--explain`; without k, how `exact.range_search` does."""

    def search(self, codes: np.ndarray, k: int, within: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Distances (Q, k) int32 and positions (Q, k) int64; k is at most the number searched."""

    def candidates(self, codes: np.ndarray, count: int, within: np.ndarray | None = None) -> np.ndarray:
        """The positions (Q, count) of the nearest, as `search` has them, in any order."""

    @property
    def exact(self) -> ExactSearcher:
        """A searcher of the same codes that misses nothing; itself, where it is one."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The search options in force, by name, e.g. nprobe."""


class ExactSearcher(Searcher, Protocol):
    """Misses nothing, so that it can tell all within a distance."""

    def range_search(
        self, codes: np.ndarray, radius: int, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All within `radius`, inclusive: limits (Q + 1,) int64, distances int32, positions int64."""


class StoredSearcher(Searcher, Protocol):
    """The searcher of a whole db.bin."""

    def write(self, write: Callable[[bytes | memoryview], None]) -> None:
        """Writes the FAISS part of db.bin, piece by piece."""
