"""`Index`: a database of binary codes that is searched by Hamming distance, in memory or from db.bin."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sdc._version import __version__
from sdc.errors import UsageError, log
from sdc.files import checksum, fingerprint
from sdc.retrieve.index import autotune, file_format, ivf
from sdc.retrieve.index.delta import folder, manifest, merged_search
from sdc.retrieve.index.delta.merged_view import MergedView
from sdc.retrieve.index.flat import FlatSearcher
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.reader import identities, read_index
from sdc.retrieve.index.records import Records
from sdc.retrieve.index.searcher import StoredSearcher

_BLOCK = 1 << 20  # row numbers looked at at once
# What an index says of itself that is not of the one it is merged into.
_OWN = ("count", "bits", "bit_order", "index_type", "version", "plan", "follows")


class Index:
    """A searchable database of codes; made by `Index.build` or `Index.open`, never changed afterwards.

    What `sdc add` and `sdc remove` have put beside a db.bin is taken in when it is opened, see
    `sdc.retrieve.index.delta`.

    Attributes:
        queries: the query split's, where `sdc encode` stored one.
        metadata: what db.bin says of itself: count, bits, bit_order, index_type, version; where another type than flat
            was asked for, plan (the fields of `IndexChoice`); and, from `sdc encode`, model, features ({path,
            fingerprint, …}, the path relative to db.bin's folder) and settings. Where the model's batch norm was
            re-centred, model has the mean it was given: {recentered: {mean: K numbers}}. Where items were added,
            sources (the fields of `sdc.retrieve.index.Source`).
        path: the file it was opened from, if any.
        changes: what was added and removed since db.bin was written, if anything.
        items: the database as `database` has it, without putting it together.
        trailer: the checksum of db.bin's trailer, if there is one.
    """

    def __init__(
        self,
        searcher: StoredSearcher | merged_search.MergedSearcher,
        database: Records | MergedView,
        queries: Records | None,
        metadata: Mapping[str, Any],
        path: Path | None = None,
        trailer: str | None = None,
        files: tuple[manifest.Identity, manifest.Identity] | None = None,
    ) -> None:
        self.items = database if isinstance(database, MergedView) else MergedView(database)
        self.queries, self.metadata, self.path, self.changes = queries, dict(metadata), path, self.items.manifest
        self._searcher, self.trailer, self._files = searcher, trailer, files
        if queries is not None:
            self.items.check(queries)

    @property
    def database(self) -> Records:
        """Its codes, rows (ascending), ids and labels.

        Of a changed index they are put together when first asked for, in as much memory as it takes; `rows`, `codes`,
        `ids` and `find` do without.
        """
        return self.items.entries

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        return f"<Index of {self.ntotal} codes of {self.bits} bits{f' from {self.path}' if self.path else ''}>"

    @property
    def ntotal(self) -> int:
        """How many codes the database has."""
        return len(self.items)

    @property
    def bits(self) -> int:
        """Length of a code."""
        return int(self.items.base.codes.shape[1]) * 8

    @property
    def vouched(self) -> bool:
        """Whether the index is ours; False for a file that plain FAISS wrote."""
        return bool(self.metadata)

    @property
    def fingerprint(self) -> str:
        """Of all that db.bin and its changes hold; of the codes where plain FAISS wrote it, or there is no file."""
        content = self.trailer or checksum(np.ascontiguousarray(self.items.base.codes))
        changes = {} if self.changes is None else {"changes": self.changes.content}
        return fingerprint({"kind": "index", "content": content, **changes})

    @property
    def generation(self) -> int:
        """How many changes it has had; compaction, which changes no item, leaves it as it was."""
        if self.changes is not None:
            return self.changes.generation
        return int((self.metadata.get("follows") or {}).get("generation", 0))

    @property
    def approximate(self) -> bool:
        """Whether a search may miss some of the nearest codes: that of type ivf."""
        return self.nprobe is not None

    @property
    def nprobe(self) -> int | None:
        """Lists that a search scans; None where the index has no lists."""
        base = self._searcher.base if isinstance(self._searcher, merged_search.MergedSearcher) else self._searcher
        return base.nprobe if isinstance(base, ivf.IVFSearcher) else None

    @classmethod
    def build(
        cls,
        codes: np.ndarray,
        *,
        ids: Sequence[str] | Ids | None = None,
        labels: np.ndarray | None = None,
        labels_coarse: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        queries: Records | None = None,
        metadata: Mapping[str, Any] | None = None,
        index_type: str = "flat",
        recall: float = autotune.RECALL,
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
        database = Records(
            codes,
            number.astype(np.int64, copy=False) if number.dtype.kind in "iu" else number,
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
        choice, inverted = autotune.choose(database, queries, index_type, recall=recall, memory=memory)
        facts = {
            "count": len(database),
            "bits": codes.shape[1] * 8,
            "bit_order": "least significant first",
            "index_type": choice.index_type,
            "version": __version__,
        }
        if index_type != "flat":
            log.info("%s", choice)
            facts["plan"] = choice.described()
        searcher = (
            FlatSearcher(database.codes)
            if inverted is None
            else ivf.IVFSearcher(inverted, database.codes, choice.nprobe)
        )
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
        return cls(*read_index(Path(path), verify=verify, nprobe=nprobe))

    def current(self) -> bool:
        """Whether the files it was opened from are still what they were; False means: open it again."""
        return self.path is None or identities(self.path) == self._files

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
        self, codes: np.ndarray, k: int, *, within: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, with positions (Q, k) among the items in the place of their rows; both are in one order."""
        codes, k, inside = self._queries(codes), operator.index(k), self._positions(within)
        if k < 1:
            raise UsageError(f"k must be at least 1, found {k}")
        return self._searcher.search(codes, min(k, self.ntotal if inside is None else len(inside)), inside)

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
        return limits, distances, self.items.rows(places)

    def explain(self, queries: int, k: int, *, within: np.ndarray | None = None) -> str:
        """How `search` goes about so many queries, and why."""
        positions = self._positions(within)
        what = f"{self.ntotal} codes" if positions is None else f"{len(positions)} of {self.ntotal} codes"
        asked = f"{queries} {'query' if queries == 1 else 'queries'}"
        return f"{asked} in {what} of {self.bits} bits: {self._searcher.plan(queries, k, positions)}"

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
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise UsageError(f"within takes row numbers, found {rows.dtype}; numpy.flatnonzero makes them of a mask")
        rows = np.unique(rows)
        places, known = self.items.places(rows)
        if not known.all():
            unknown = rows[~known]
            raise UsageError(f"the database has no row {unknown[0]} ({len(unknown)} of {len(rows)} rows are unknown)")
        return places

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """The codes (…, bits // 8) of rows (…,) of the database."""
        return self.items.codes(self.items.places(rows)[0])

    def ids(self, rows: np.ndarray) -> list[str]:
        """The ids of rows (n,) of the database."""
        return self.items.names(self.items.places(rows)[0])

    def find(self, name: str) -> int | None:
        """The row of the database's first item whose id is `name`; None where there is none."""
        place = self.items.find(name)
        return None if place < 0 else int(self.items.rows(np.array([place]))[0])

    def recorded(self, what: Literal["model", "features"]) -> tuple[Path, str]:
        """Where the model or features this index was encoded with were, and their fingerprint.

        Raises:
            UsageError: nothing is recorded, since `sdc encode` did not write the index.
        """
        origin = self.metadata.get(what)
        if not origin:
            raise UsageError(f"{self.path or 'this index'} records no {what}: `sdc encode` did not write it")
        beside = folder.itself(self.path).parent if self.path else Path()
        return Path(os.path.normpath(beside / origin["path"])), str(origin["fingerprint"])

    def save(self, path: Path | str) -> Path:
        """Writes db.bin, whole or not at all; its layout stands in `sdc.retrieve.index.file_format`.

        Changes to a db.bin that it replaces go with that one.

        Raises:
            SdcError: no such folder, no permission, or a full disk.
        """
        path = Path(path)
        if isinstance(self._searcher, merged_search.MergedSearcher):
            return self.merged().save(path)
        arrays = self.database.arrays("database")
        if self.queries is not None:
            arrays |= {"queries.codes": self.queries.codes, **self.queries.arrays("queries")}
        if self.approximate:  # its lists have the codes in another order
            arrays[file_format.CODES] = self.database.codes
        with folder.superseded(path) as said:
            return file_format.write(path, self._searcher.write, {**self.metadata, **said}, arrays)

    def merged(self, **metadata: Any) -> Index:
        """An index of these items built anew, as this one was: of a changed one, without changes.

        Args:
            metadata: what it has to say beside what this one says.

        Raises:
            UsageError: the codes no longer fit into the memory that `sdc encode` was given.
        """
        kept = {name: value for name, value in self.metadata.items() if name not in _OWN}
        asked, database = {**self.metadata.get("plan", {}), **self.metadata.get("settings", {})}, self.database
        return self.build(
            database.codes,
            ids=database.ids,
            labels=database.labels,
            labels_coarse=database.labels_coarse,
            rows=database.rows,
            queries=self.queries,
            metadata={**kept, **metadata},
            index_type=asked.get("index_type", "flat"),
            recall=asked.get("recall", autotune.RECALL),
            memory=asked.get("memory"),
            copy=False,
        )


def _ascend(numbers: np.ndarray) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all())
