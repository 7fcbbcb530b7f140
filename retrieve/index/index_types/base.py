"""What a type of index brings: how it is built, opened, stored and searched, and the memory it takes."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sdc.retrieve.index import faiss_layout
from sdc.retrieve.index.faiss_layout import Layout
from sdc.retrieve.index.index_types.searcher import StoredSearcher

NEIGHBORS = 10  # recall is that of so many


@dataclass(frozen=True)
class IndexChoice:
    """What type of index was chosen, and what to expect of it.

    Attributes:
        index_type: a name in `INDEX_TYPES`.
        why: a clause.
        memory: bytes that searching it touches.
        recall: expected recall@10 against exact search, where an item as near as the tenth counts; measured on queries
            that had no part in choosing, see `sdc.retrieve.cross_validation`. 1 where the search is exact.
        asked: the recall that was to be reached.
        milliseconds: expected of one query, or None where nothing was timed, and
        flat_milliseconds: those of exact search then.
        queries: how many the expectations come from.
        measured_on: where they are from: "query split" or "database rows".
        details: what else the type says for db.bin's metadata, e.g. lists and nprobe of an IVF index.
        search: how a search goes, a clause for the log.
    """

    index_type: str
    why: str
    memory: int
    recall: float = 1.0
    asked: float | None = None
    milliseconds: float | None = None
    flat_milliseconds: float | None = None
    queries: int | None = None
    measured_on: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    search: str = "exact"

    def described(self) -> dict[str, Any]:
        """What is known, for db.bin's metadata."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        del known["details"], known["search"]
        return known | dict(self.details)

    def __str__(self) -> str:
        search = self.search
        if self.milliseconds is not None:
            search += f", {self.milliseconds:.3g} ms a query; measured with {self.queries} queries, {self.measured_on}"
        return f"index type {self.index_type} ({search}): {self.why}"


@dataclass(frozen=True)
class BuildRequest:
    """What an index is built of.

    Attributes:
        codes: (N, bits // 8) uint8, of the database, by position.
        rows: (N,) their rows, ascending.
        query_codes, query_rows: of the query split; none of them where there is none.
        recall: recall@10 against exact search that an approximate type has to reach.
        memory: bytes that codes and lists may take; None is any number.
        auto: nobody asked for this type: it is to be taken only where it is clearly faster than exact search.
        seed: of whatever is drawn.
    """

    codes: np.ndarray
    rows: np.ndarray
    query_codes: np.ndarray
    query_rows: np.ndarray
    recall: float
    memory: int | None = None
    auto: bool = False
    seed: int = 0


class Built(NamedTuple):
    """An index in memory, and why it is of its type: `choice.index_type`, which need not be the one asked for."""

    choice: IndexChoice
    searcher: StoredSearcher


class IndexType(ABC):
    """A type of index; a new one is a subclass in a file of its own and a line in `INDEX_TYPES`.

    Attributes:
        name: as `--index-type` takes it, and as db.bin's metadata has it.
        label: as messages call it.
        help: for `sdc encode --help`, a clause with its full stop.
        fourcc: the first 4 bytes of the FAISS index that its searcher writes.
        exact: whether a search finds all of the nearest codes.
        keeps_order: whether its FAISS index holds the codes by position, so that db.bin needs no copy of them.
        competes: whether `--index-type auto` tries it.
        options: its search options, by name, and what `sdc search --help` says of each.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    help: ClassVar[str]
    fourcc: ClassVar[bytes]
    exact: ClassVar[bool] = False
    keeps_order: ClassVar[bool] = False
    competes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def footprint(self, count: int, width: int) -> int:
        """Bytes of memory that searching `count` codes of `width` bytes touches in the end."""

    @abstractmethod
    def build(self, request: BuildRequest) -> Built:
        """Builds an index of this type, or of type flat where this one is of no use."""

    @abstractmethod
    def open(self, path: Path, codes: np.ndarray, options: Mapping[str, Any]) -> StoredSearcher:
        """The searcher of a db.bin whose layout was checked.

        Args:
            codes: (N, bits // 8) uint8, by position.
            options: of the search, those that were given; the names are in `options` of this class.

        Raises:
            UsageError: an option is out of range.
            SdcError: the FAISS index cannot be read.
        """

    def layout(self, data: mmap.mmap, size: int) -> Layout:
        """What the FAISS index at the beginning of a file says of itself; a type may check more of it than this.

        Args:
            size: bytes that it takes, as the footer of db.bin says.

        Raises:
            ValueError, struct.error: it is damaged.
        """
        return faiss_layout.other_layout(data, size)
