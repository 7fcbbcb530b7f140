"""`Index`: a database of binary codes that is searched by Hamming distance, in memory or from db.bin."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

import sdc
from sdc.artifacts import SdcError, UsageError, checksum, fingerprint, log
from sdc.retrieve import container, ivf, tune
from sdc.retrieve.entries import Entries, Ids
from sdc.retrieve.scan import Flat

_BLOCK = 1 << 20  # row numbers looked at at once


class Searcher(Protocol):
    """Finds the nearest codes by their positions in the database; one class for each index type.

    `within` restricts a search to these positions, ascending and distinct. Results are ordered by
    (distance, position).
    """

    def plan(self, queries: int, k: int, within: np.ndarray | None = None) -> object:
        """How `search` goes about so many queries, in words for `--explain`."""

    def search(self, codes: np.ndarray, k: int, within: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Distances (Q, k) int32 and positions (Q, k) int64; k is at most the number searched."""

    def range_search(
        self, codes: np.ndarray, radius: int, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All within `radius`, inclusive: limits (Q + 1,) int64, distances int32, positions int64."""

    def write(self, write: Callable[[bytes | memoryview], None]) -> None:
        """The FAISS part of db.bin, piece by piece."""


class Index:
    """A searchable database of codes; made by `Index.build` or `Index.open`, never changed afterwards.

    Attributes:
        database: its codes, rows (ascending), ids and labels.
        queries: the query split's, where `sdc encode` stored one.
        metadata: what db.bin says of itself: count, bits, bit_order, index_type, version; where another type than flat
            was asked for, plan (the fields of `sdc.retrieve.tune.Choice`); and, from `sdc encode`, model, features
            ({path, fingerprint, …}, the path relative to db.bin's folder) and settings. Where the model's batch norm
            was re-centred, model has the mean it was given: {recentered: {mean: K numbers}}.
        path: the file it was opened from, if any.
    """

    def __init__(
        self,
        searcher: Searcher,
        database: Entries,
        queries: Entries | None,
        metadata: Mapping[str, Any],
        path: Path | None = None,
        trailer: str | None = None,
    ) -> None:
        self.database, self.queries, self.metadata, self.path = database, queries, dict(metadata), path
        self._searcher, self._trailer = searcher, trailer
        if queries is not None:
            _check_queries(database, queries)

    def __len__(self) -> int:
        return len(self.database)

    def __repr__(self) -> str:
        return f"<Index of {self.ntotal} codes of {self.bits} bits{f' from {self.path}' if self.path else ''}>"

    @property
    def ntotal(self) -> int:
        """How many codes the database has."""
        return len(self.database)

    @property
    def bits(self) -> int:
        """Length of a code."""
        return int(self.database.codes.shape[1]) * 8

    @property
    def vouched(self) -> bool:
        """Whether the index is ours; False for a file that plain FAISS wrote."""
        return bool(self.metadata)

    @property
    def fingerprint(self) -> str:
        """Of all that db.bin holds; of the codes alone where plain FAISS wrote it or there is no file."""
        content = self._trailer or checksum(np.ascontiguousarray(self.database.codes))
        return fingerprint({"kind": "index", "content": content})

    @property
    def approximate(self) -> bool:
        """Whether a search may miss some of the nearest codes: that of type ivf."""
        return isinstance(self._searcher, ivf.Searcher)

    @property
    def nprobe(self) -> int | None:
        """Lists that a search scans; None where the index has no lists."""
        return self._searcher.nprobe if isinstance(self._searcher, ivf.Searcher) else None

    @classmethod
    def build(
        cls,
        codes: np.ndarray,
        *,
        ids: Sequence[str] | Ids | None = None,
        labels: np.ndarray | None = None,
        labels_coarse: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        queries: Entries | None = None,
        metadata: Mapping[str, Any] | None = None,
        index_type: str = "flat",
        recall: float = tune.RECALL,
        memory: int | None = None,
        copy: bool = True,
    ) -> Index:
        """An index in memory.

        Args:
            codes: (N, bits // 8) uint8.
            ids: N ids; without, an id is its row in digits.
            labels, labels_coarse: (N,) whole numbers, or (N, C) multi-hot.
            rows: (N,) distinct numbers that `search` returns; 0 … N − 1 without.
            queries: codes to be stored beside the database.
            metadata: further JSON-able facts for db.bin.
            index_type: flat, ivf, or auto: the one that reaches the recall faster, measured on these codes.
            recall: recall@10 against exact search that IVF is to reach.
            memory: bytes that codes and lists may take in a search; without, any number.
            copy: False takes the codes over where they lie, and makes them read-only.

        Raises:
            UsageError: no codes, arrays of unequal length, a row number that occurs twice, an unknown index type, or
                recall or memory out of range.
        """
        codes = np.array(codes, order="C") if copy else np.ascontiguousarray(codes)
        number = np.arange(len(codes), dtype=np.int64) if rows is None else np.asarray(rows)
        database = Entries(
            codes,
            number,
            None if ids is None else Ids.of(ids),
            None if labels is None else np.asarray(labels),
            None if labels_coarse is None else np.asarray(labels_coarse),
        )
        if not len(database):
            raise UsageError("an index needs at least one code, found none")
        if not all(_ascend(number[start : start + _BLOCK + 1]) for start in range(0, len(number), _BLOCK)):
            # FAISS breaks ties by position: with ascending rows that is the order (distance, row).
            database = database.take(np.argsort(number, kind="stable"))
            twice = database.rows[1:][np.diff(database.rows) == 0]
            if len(twice):
                raise UsageError(f"row numbers must be distinct, but {twice[0]} occurs twice")
        database.codes.setflags(write=False)
        choice, inverted = tune.choose(database, queries, index_type, recall=recall, memory=memory)
        facts = {
            "count": len(database),
            "bits": codes.shape[1] * 8,
            "bit_order": "least significant first",
            "index_type": choice.index_type,
            "version": sdc.__version__,
        }
        if index_type != "flat":
            log.info("%s", choice)
            facts["plan"] = choice.described()
        searcher = Flat(database.codes) if inverted is None else ivf.Searcher(inverted, database.codes, choice.nprobe)
        return cls(searcher, database, queries, {**facts, **(metadata or {})})

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True, nprobe: int | None = None) -> Index:
        """Opens db.bin by memory map, read-only.

        A flat binary index that plain FAISS wrote is accepted with a warning: nothing vouches for its content,
        its rows are positions and its ids the rows in digits.

        Args:
            verify: check every byte against the checksums; False opens a huge file in milliseconds.
            nprobe: lists that a search of an IVF index scans; without, as many as were chosen when it was made.

        Raises:
            SdcError: there is no such file, it is no db.bin, or it is damaged or truncated.
            UsageError: nprobe < 1, or given for a flat index.
        """
        path = Path(path)
        before = _identity(path)
        held = container.read(path, verify=verify)
        try:
            database, queries = _entries(held)
        except (KeyError, UsageError) as error:
            raise SdcError(f"{path} is damaged: its arrays do not fit together ({error})") from None
        if not len(database):
            raise SdcError(f"{path} holds no codes, expected at least one: there is nothing to search in it")
        if held.checksum is None:
            log.warning("%s was written by plain FAISS: nothing vouches for its content, ids are positions", path)
        if nprobe is not None and held.lists is None:
            raise UsageError(f"--nprobe is for an index of type ivf, but {path} is flat: its search is exact")
        searcher = Flat(database.codes) if held.lists is None else ivf.mapped(path, database.codes, nprobe)
        if _identity(path) != before:
            raise SdcError(f"{path} was replaced while it was being opened; try again")
        return cls(searcher, database, queries, held.metadata, path, held.checksum)

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
        codes, k, positions = self._queries(codes), operator.index(k), self._positions(within)
        if k < 1:
            raise UsageError(f"k must be at least 1, found {k}")
        k = min(k, self.ntotal if positions is None else len(positions))
        distances, places = self._searcher.search(codes, k, positions)
        return distances, self.database.rows[places]

    def range_search(
        self, codes: np.ndarray, radius: int, *, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All codes within a Hamming distance, ordered by (distance, row).

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
        codes, radius, positions = self._queries(codes), operator.index(radius), self._positions(within)
        if radius < 0:
            raise UsageError(f"the radius must be at least 0, found {radius}")
        limits, distances, places = self._searcher.range_search(codes, radius, positions)
        return limits, distances, self.database.rows[places]

    def explain(self, queries: int, k: int, *, within: np.ndarray | None = None) -> str:
        """How `search` goes about so many queries, and why."""
        positions = self._positions(within)
        what = f"{self.ntotal} codes" if positions is None else f"{len(positions)} of {self.ntotal} codes"
        return f"{queries} queries in {what} of {self.bits} bits: {self._searcher.plan(queries, k, positions)}"

    def _queries(self, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes)
        if codes.dtype != np.uint8 or codes.ndim != 2:
            raise UsageError(f"query codes must be (Q, bits // 8) uint8, found {codes.dtype} of shape {codes.shape}")
        if codes.shape[1] * 8 != self.bits:
            raise UsageError(
                f"query codes have {codes.shape[1] * 8} bits, this index has {self.bits}: encode both with one model"
            )
        return np.ascontiguousarray(codes)

    def _positions(self, rows: np.ndarray | None) -> np.ndarray | None:
        """Where in the database rows are, ascending."""
        if rows is None:
            return None
        rows = np.unique(np.asarray(rows))
        positions = np.searchsorted(self.database.rows, rows)
        unknown = rows[self.database.rows[np.minimum(positions, self.ntotal - 1)] != rows]
        if len(unknown):
            raise UsageError(f"the database has no row {unknown[0]} ({len(unknown)} of {len(rows)} rows are unknown)")
        return positions

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of rows that `search` returned."""
        return self.database.names(np.searchsorted(self.database.rows, rows))

    def recorded(self, what: Literal["model", "features"]) -> tuple[Path, str]:
        """Where the model or features this index was encoded with were, and their fingerprint.

        Raises:
            UsageError: nothing is recorded, since `sdc encode` did not write the index.
        """
        origin = self.metadata.get(what)
        if not origin:
            raise UsageError(f"{self.path or 'this index'} records no {what}: `sdc encode` did not write it")
        folder = self.path.parent if self.path else Path()
        return Path(os.path.normpath(folder / origin["path"])), str(origin["fingerprint"])

    def save(self, path: Path | str) -> Path:
        """Writes db.bin, whole or not at all; its layout stands in `sdc.retrieve.container`.

        Raises:
            SdcError: no such folder, no permission, or a full disk.
        """
        arrays = self.database.arrays("database")
        if self.queries is not None:
            arrays |= {"queries.codes": self.queries.codes, **self.queries.arrays("queries")}
        if self.approximate:  # its lists have the codes in another order
            arrays[container.CODES] = self.database.codes
        return container.write(Path(path), self._searcher.write, self.metadata, arrays)


def _ascend(numbers: np.ndarray) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all())


def _entries(held: container.Container) -> tuple[Entries, Entries | None]:
    if held.checksum is None:
        return Entries(held.codes, np.arange(len(held.codes), dtype=np.int64)), None
    database = Entries.of_arrays(held.codes, "database", held.arrays)
    if "queries.codes" not in held.arrays:
        return database, None
    return database, Entries.of_arrays(held.arrays["queries.codes"], "queries", held.arrays)


def _check_queries(database: Entries, queries: Entries) -> None:
    """Raises UsageError unless queries and database are of one kind."""
    for what, a, b in (
        ("codes", queries.codes, database.codes),
        ("labels", queries.labels, database.labels),
        ("coarse labels", queries.labels_coarse, database.labels_coarse),
    ):
        if a is not None and b is not None and a.shape[1:] != b.shape[1:]:
            raise UsageError(f"{what} of the queries and of the database differ in width: {a.shape} and {b.shape}")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None  # container.read says what is wrong
    return found.st_dev, found.st_ino, found.st_mtime_ns
