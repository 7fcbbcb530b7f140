"""`Index`: a database of binary codes that is searched by Hamming distance, in memory or from db.bin."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sdc.errors import SdcError
from sdc.extract.store import Classes
from sdc.retrieve.index.build import build_index, rebuild_index, write_index
from sdc.retrieve.index.delta import superseded
from sdc.retrieve.index.encoded_index import EncodedIndex
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.index_types import RECALL, StoredSearcher
from sdc.retrieve.index.reader import identities, read_index
from sdc.retrieve.index.records import Records

if TYPE_CHECKING:
    from typing import Self


class Index(EncodedIndex):
    """A searchable database of codes; made by `Index.build` or `Index.open`, never changed afterwards.

    What `sdc add` and `sdc remove` have put beside a db.bin is taken in when it is opened, see
    `sdc.retrieve.index.delta`. Its attributes are those of `EncodedIndex`.
    """

    @classmethod
    def build(
        cls,
        codes: np.ndarray,
        *,
        ids: Sequence[str | int | bytes] | np.ndarray | Ids | None = None,
        labels: np.ndarray | None = None,
        labels_coarse: np.ndarray | None = None,
        classes: Classes | None = None,
        rows: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
        texts: Sequence[str] | Ids | None = None,
        queries: Records | None = None,
        metadata: Mapping[str, Any] | None = None,
        index_type: str = "flat",
        recall: float = RECALL,
        memory: int | None = None,
        copy: bool = True,
    ) -> Self:
        """An index in memory.

        Args:
            codes: (N, bits // 8) uint8.
            ids: N texts, whole numbers or bytes; without, an id is its row in digits.
            labels, labels_coarse: (N,) whole numbers of 32 bits or names of classes, or (N, C) zeros and ones; -1 is no
                label.
            classes: names of the classes by level and number, such as {"labels": {0: "cat", 1: "dog"}}.
            rows: (N,) distinct numbers of 64 bits that `search` returns; 0 … N − 1 without.
            lengths: (N,) uint8, of what the codes decode to, where their model has byte tables.
            texts: N texts that answers show.
            queries: codes to be stored beside the database.
            metadata: further JSON-able facts for db.bin.
            index_type: a name in `INDEX_TYPES`, or auto: the type that reaches the recall faster, measured on these
                codes.
            recall: recall@10 against exact search that an approximate type is to reach.
            memory: bytes that codes and lists may take in a search; without, any number.
            copy: False takes the codes over where they lie, and makes them read-only.

        Raises:
            UsageError: no codes, arrays of unequal length, ids, labels or rows that cannot be kept as they are, a row
                number that occurs twice, an unknown index type, or recall or memory out of range.
        """
        built = build_index(
            codes, ids=ids, labels=labels, labels_coarse=labels_coarse, classes=classes, rows=rows,
            lengths=lengths, texts=texts, queries=queries, metadata=metadata, index_type=index_type, recall=recall,
            memory=memory, copy=copy,
        )  # fmt: skip
        return cls(*built)

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True, **options: Any) -> Self:
        """Opens db.bin by memory map, read-only.

        A flat binary index that plain FAISS wrote is accepted with a warning: nothing vouches for its content,
        its rows are positions and its ids the rows in digits.

        Args:
            verify: check every byte against the checksums; False opens a huge file in milliseconds.
            options: of searches, by name, such as nprobe of type ivf, the lists that are scanned; None, or without,
                as was chosen when it was made.

        Raises:
            SdcError: there is no such file, it is no db.bin, or it is damaged or truncated.
            UsageError: an option that the type of the index does not have, or out of range.
        """
        return cls(*read_index(Path(path), verify=verify, options=options))

    def current(self) -> bool:
        """Whether the files it was opened from are still what they were; False means: open it again."""
        return self.path is None or identities(self.path) == self._files

    def save(self, path: Path | str) -> Path:
        """Writes db.bin, whole or not at all; its layout stands in `sdc.retrieve.index.file_format`.

        Changes to a db.bin that it replaces go with that one.

        Raises:
            SdcError: no such folder, no permission, or a full disk.
        """
        path = Path(path)
        if self.changes is not None:
            return self.merged().save(path)
        searcher = cast(StoredSearcher, self._searcher)
        with superseded(path) as follows:
            write_index(path, searcher, self.type, self.database, self.queries, {**self.metadata, **follows})
        return path

    def merged(self, **metadata: Any) -> Index:
        """An index of these items built anew, as this one was: of a changed one, without changes.

        Args:
            metadata: what it has to say beside what this one says.

        Raises:
            UsageError: the codes no longer fit into the memory that `sdc encode` was given.
        """
        return Index(*rebuild_index(self.database, self.queries, self.metadata, metadata))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of an index of a file opens that file again; one in memory takes what its db.bin would hold along."""
        if self.path is not None:
            return _reopened, (type(self), self.path.absolute(), self.fingerprint, self.search_options)
        with tempfile.TemporaryDirectory(prefix="sdc-") as folder:
            return _restored, (type(self), self.save(Path(folder, "db.bin")).read_bytes(), self.search_options)


def _reopened(kind: type[Index], path: Path, expected: str, options: dict[str, Any]) -> Index:
    index = kind.open(path, verify=False, **options)
    if index.fingerprint != expected:
        raise SdcError(f"{path} was changed or replaced since this index was opened: open it again")
    return index


def _restored(kind: type[Index], content: bytes, options: dict[str, Any]) -> Index:
    with tempfile.TemporaryDirectory(prefix="sdc-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "db.bin")
        path.write_bytes(content)
        index = kind.open(path, verify=False, **options)  # by a memory map, which outlives the file
    index.path = index.checksum = index._files = None
    return index
