"""Codes that are searched by Hamming distance, and what belongs to them: rows, ids, labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdc.errors import UsageError
from sdc.retrieve.index.delta import MergedView
from sdc.retrieve.index.index_types import Searcher
from sdc.retrieve.index.records import Records
from sdc.settings import whole_number


class Searchable:
    """Items that a searcher finds; what `Index` is without its file.

    Attributes:
        items: the database by position: rows, codes and ids of what a search returns. Nothing is copied for it.
    """

    def __init__(self, searcher: Searcher, items: MergedView) -> None:
        self._searcher, self.items = searcher, items

    @property
    def database(self) -> Records:
        """Its codes, rows (ascending), ids and labels.

        Of a changed index they are put together when first asked for, in as much memory as it takes; `rows`, `codes`,
        `ids` and `find` do without.
        """
        return self.items.records

    def __len__(self) -> int:
        return self.ntotal

    @property
    def ntotal(self) -> int:
        """How many codes the database has."""
        return len(self.items)

    @property
    def bits(self) -> int:
        """Length of a code."""
        return int(self.items.stored.codes.shape[1]) * 8

    @property
    def search_options(self) -> dict[str, Any]:
        """The search options in force, by name, e.g. nprobe; which there are depends on the type."""
        return dict(self._searcher.options)

    def search(self, codes: np.ndarray, k: int, *, within: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest codes by Hamming distance, ordered by (distance, row).

        Args:
            codes: (Q, bits // 8) uint8.
            k: how many; more than there are returns all.
            within: search these rows alone, in any order; all without.

        Returns:
            distances (Q, k) int32 and rows (Q, k) int64.

        Raises:
            UsageError: k < 1, codes of another width or type, or rows that the database does not have.
        """
        distances, positions = self.search_positions(codes, k, within=within)
        return distances, self.items.rows(positions)

    def search_positions(
        self, codes: np.ndarray, k: int, *, within: np.ndarray | None = None, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, but returns positions (Q, k) among the items instead of their rows.

        Args:
            exact: miss nothing, though the index be approximate.
        """
        codes, inside, k = self._checked(codes, k, within)
        searcher = self._searcher.exact if exact else self._searcher
        return searcher.search(codes, k, inside)

    def candidates(self, codes: np.ndarray, count: int, *, within: np.ndarray | None = None) -> np.ndarray:
        """The positions (Q, count) that `search_positions` would find, in any order: where they are many it is cheaper.

        They are to be put into a finer order; the arguments and errors are those of `search`.
        """
        codes, inside, count = self._checked(codes, count, within)
        return self._searcher.candidates(codes, count, inside)

    def _checked(
        self, codes: np.ndarray, k: int, within: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Codes and positions as searchers take them, and k, at most as many as are searched."""
        codes, k = check_query_codes(codes, self.bits), whole_number("k", k)
        inside = inside_positions(self.items, within)
        if k < 1:
            raise UsageError(f"k must be at least 1, found {k}")
        return codes, inside, min(k, self.ntotal if inside is None else len(inside))

    def range_search(
        self, codes: np.ndarray, radius: int, *, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All codes within a Hamming distance, ordered by (distance, row); none is missed, whatever the index's type.

        Args:
            codes: (Q, bits // 8) uint8.
            radius: the largest distance that still counts (FAISS leaves it out).
            within: search these rows alone, in any order; all without.

        Returns:
            limits (Q + 1,) int64, distances (M,) int32 and rows (M,) int64: those of query q are at
            limits[q]:limits[q + 1].

        Raises:
            UsageError: radius < 0, codes of another width or type, or rows that the database does not have.
        """
        codes, radius, inside = (
            check_query_codes(codes, self.bits),
            whole_number("radius", radius),
            inside_positions(self.items, within),
        )
        if radius < 0:
            raise UsageError(f"the radius must be at least 0, found {radius}")
        limits, distances, positions = self._searcher.exact.range_search(codes, radius, inside)
        return limits, distances, self.items.rows(positions)

    def explain(self, queries: int, k: int | None, *, within: np.ndarray | None = None) -> str:
        """How `search` goes about so many queries, and why; without k, how `range_search` does."""
        positions = inside_positions(self.items, within)
        what = f"{self.ntotal} codes" if positions is None else f"{len(positions)} of {self.ntotal} codes"
        asked = f"{queries} {'query' if queries == 1 else 'queries'}"
        return f"{asked} in {what} of {self.bits} bits: {self._searcher.plan(queries, k, positions)}"

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """The codes (…, bits // 8) of rows (…,) of the database."""
        return self.items.codes(self.items.positions(rows)[0])

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of rows (n,) of the database."""
        return self.items.names(self.items.positions(rows)[0])

    def find(self, name: str) -> int | None:
        """The row of the database's first item whose id is `name`; None where there is none."""
        position = self.items.find(name)
        return None if position < 0 else int(self.items.rows(np.array([position]))[0])


def check_query_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Query codes (Q, bits // 8) as searchers take them; raises UsageError where they are no such thing."""
    codes = np.asarray(codes)
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise UsageError(f"query codes must be (Q, bits // 8) uint8, found {codes.dtype} of shape {codes.shape}")
    if codes.shape[1] * 8 != bits:
        raise UsageError(
            f"query codes have {codes.shape[1] * 8} bits, this index has {bits}: encode both with one model"
        )
    return np.ascontiguousarray(codes)


def inside_positions(items: MergedView, rows: np.ndarray | None) -> np.ndarray | None:
    """The positions of the rows that a search is restricted to, ascending; None where it is not."""
    if rows is None:
        return None
    rows = np.asarray(rows)
    if rows.size and rows.dtype.kind not in "iu":
        raise UsageError(f"within takes row numbers, found {rows.dtype}; numpy.flatnonzero makes them of a mask")
    rows = np.unique(rows)
    positions, present = items.positions(rows)
    if not present.all():
        unknown = rows[~present]
        raise UsageError(f"the database has no row {unknown[0]} ({len(unknown)} of {len(rows)} rows are unknown)")
    return positions
