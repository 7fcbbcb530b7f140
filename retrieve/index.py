"""`Index`: a database of binary codes that is searched by Hamming distance, in memory or from db.bin."""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

import sdc
from sdc.artifacts import SdcError, UsageError, checksum, fingerprint, log
from sdc.retrieve import container
from sdc.retrieve.entries import Entries, Ids

INDEX_TYPES = ("flat",)


def faiss_module() -> Any:
    """FAISS, imported with OpenMP threads that sleep while they wait.

    Spinning ones made a query 100 times slower beside other work on the cores. It has no effect if another
    library started OpenMP before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import faiss

    return faiss


class Index:
    """A searchable database of codes; made by `Index.build` or `Index.open`, never changed afterwards.

    Attributes:
        database: its codes, rows (ascending), ids and labels.
        queries: the query split's, where `sdc encode` stored one.
        metadata: what db.bin says of itself: count, bits, bit_order, index_type, version, and, from `sdc encode`,
            model, features ({path, fingerprint, …}, the path relative to db.bin's folder) and settings. Where the
            model's batch norm was re-centred, model has the mean it was given: {recentered: {mean: K numbers}}.
        path: the file it was opened from, if any.
    """

    def __init__(
        self,
        faiss_index: Any,
        database: Entries,
        queries: Entries | None,
        metadata: Mapping[str, Any],
        path: Path | None = None,
        trailer: str | None = None,
    ) -> None:
        self.database, self.queries, self.metadata, self.path = database, queries, dict(metadata), path
        self._faiss, self._trailer = faiss_index, trailer
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

    @classmethod
    def build(
        cls,
        codes: np.ndarray,
        *,
        ids: Sequence[str] | None = None,
        labels: np.ndarray | None = None,
        labels_coarse: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        queries: Entries | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Index:
        """An index in memory.

        Args:
            codes: (N, bits // 8) uint8, copied.
            ids: N ids; without, an id is its row in digits.
            labels, labels_coarse: (N,) whole numbers, or (N, C) multi-hot.
            rows: (N,) distinct numbers that `search` returns; 0 … N − 1 without.
            queries: codes to be stored beside the database.
            metadata: further JSON-able facts for db.bin.

        Raises:
            UsageError: no codes, arrays of unequal length, or a row number that occurs twice.
        """
        codes = np.array(codes, order="C")
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
        if (np.diff(number) <= 0).any():
            # FAISS breaks ties by position: with ascending rows that is the order (distance, row).
            database = database.take(np.argsort(number, kind="stable"))
            twice = database.rows[1:][np.diff(database.rows) == 0]
            if len(twice):
                raise UsageError(f"row numbers must be distinct, but {twice[0]} occurs twice")
        database.codes.setflags(write=False)
        flat = faiss_module().IndexBinaryFlat(codes.shape[1] * 8)
        flat.add(database.codes)
        facts = {
            "count": len(database),
            "bits": flat.d,
            "bit_order": "least significant first",
            "index_type": "flat",
            "version": sdc.__version__,
        }
        return cls(flat, database, queries, {**facts, **(metadata or {})})

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Index:
        """Opens db.bin by memory map, read-only.

        A flat binary index that plain FAISS wrote is accepted with a warning: nothing vouches for its content,
        its rows are positions and its ids the rows in digits.

        Args:
            verify: check every byte against the checksums; False opens a huge file in milliseconds.

        Raises:
            SdcError: there is no such file, it is no db.bin, or it is damaged or truncated.
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
        mapped = _map(path)
        if _identity(path) != before:
            raise SdcError(f"{path} was replaced while it was being opened; try again")
        return cls(mapped, database, queries, held.metadata, path, held.checksum)

    def search(self, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest codes by Hamming distance, ordered by (distance, row).

        Args:
            codes: (Q, bits // 8) uint8.
            k: how many; more than there are returns all.

        Returns:
            distances (Q, k) int32 and rows (Q, k) int64.

        Raises:
            UsageError: k < 1, or codes of another width or type.
        """
        codes = np.asarray(codes)
        if codes.dtype != np.uint8 or codes.ndim != 2:
            raise UsageError(f"query codes must be (Q, bits // 8) uint8, found {codes.dtype} of shape {codes.shape}")
        if codes.shape[1] * 8 != self.bits:
            raise UsageError(
                f"query codes have {codes.shape[1] * 8} bits, this index has {self.bits}: encode both with one model"
            )
        k = min(operator.index(k), self.ntotal)
        if k < 1:
            raise UsageError(f"k must be at least 1, found {k}")
        with _one_thread() if len(codes) == 1 else contextlib.nullcontext():
            distances, positions = self._faiss.search(np.ascontiguousarray(codes), k)
        return distances, self.database.rows[positions]

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

        def write_faiss(write: Callable[[bytes], None]) -> None:
            faiss = faiss_module()
            faiss.write_index_binary(self._faiss, faiss.PyCallbackIOWriter(write, container.CHUNK))

        return container.write(Path(path), write_faiss, self.metadata, arrays)


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


def _map(path: Path) -> Any:
    """The FAISS part, mapped without a copy. Nothing may add to or remove from it: FAISS would abort."""
    faiss = faiss_module()
    limit = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
    try:
        return faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise SdcError(f"FAISS cannot read {path}: {str(error).splitlines()[0]}") from None
    finally:
        faiss.set_deserialization_vector_byte_limit(limit)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None  # container.read says what is wrong
    return found.st_dev, found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS splits its work over queries only: for a single one further threads would just be woken."""
    faiss = faiss_module()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
