"""How an index is made of codes, in memory, and written to db.bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdc._version import __version__
from sdc.errors import UsageError, log
from sdc.extract.store import Classes, classes_of_json, classes_to_json, number_names
from sdc.retrieve.index import file_format
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.index_types import RECALL, IndexType, StoredSearcher, choose, load_index_type
from sdc.retrieve.index.records import Records

_BLOCK = 1 << 20  # row numbers looked at at once
# What the metadata of an index says that is not true of one that is built of its items anew.
_OF_ONE_FILE = ("count", "bits", "bit_order", "index_type", "version", "plan", "follows")


class NewIndex(NamedTuple):
    """What the constructor of `sdc.retrieve.index.Index` takes."""

    searcher: StoredSearcher
    index_type: IndexType
    database: Records
    queries: Records | None
    metadata: Mapping[str, Any]


def build_index(
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
) -> NewIndex:
    """Makes an index of codes; for the arguments see `Index.build`."""
    codes = np.array(codes, order="C") if copy else np.ascontiguousarray(codes)
    numbers = np.arange(len(codes), dtype=np.int64) if rows is None else _given_rows(rows)
    known = _given_classes(classes)
    database = Records(
        codes,
        numbers,
        None if ids is None else Ids.of(ids),
        _given_labels(labels, "labels", known),
        _given_labels(labels_coarse, "labels_coarse", known),
        lengths=lengths,
        classes=known,
        texts=None if texts is None else Ids.of(texts),
    )
    if not len(database):
        raise UsageError("an index needs at least one code, found none")
    if not all(_ascend(numbers[start : start + _BLOCK + 1]) for start in range(0, len(numbers), _BLOCK)):
        # FAISS breaks ties by position: with ascending rows that is the order (distance, row).
        database = database.take(np.argsort(numbers, kind="stable"))
        twice = database.rows[1:][np.diff(database.rows) == 0]
        if len(twice):
            raise UsageError(f"row numbers must be distinct, but {twice[0]} occurs twice")
    database.codes.setflags(write=False)
    choice, searcher = choose(database, queries, index_type, recall=recall, memory=memory)
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
    return NewIndex(searcher, load_index_type(choice.index_type), database, queries, {**facts, **(metadata or {})})


def _given_rows(rows: Any) -> np.ndarray:
    """Row numbers as they come from Python, int64 where they are whole numbers."""
    numbers = np.asarray(rows)
    if numbers.dtype.kind not in "iu":
        return numbers  # which `Records` refuses
    if numbers.dtype.kind == "u" and numbers.size and numbers.max() > np.iinfo(np.int64).max:
        raise UsageError(f"row numbers: found {numbers.max()}, expected at most {np.iinfo(np.int64).max}")
    return numbers.astype(np.int64, copy=False)


def _given_classes(classes: Classes | None) -> dict[str, Mapping[int, str]]:
    """Names of classes as they come from Python.

    Raises:
        UsageError: they are something else.
    """
    try:
        return {**classes_of_json(classes_to_json(classes or {}))}
    except (ValueError, TypeError, AttributeError) as error:
        expected = "expected names by level and number, such as {'labels': {0: 'cat', 1: 'dog'}}"
        raise UsageError(f"classes: {expected}, found {classes!r} ({error})") from None


def _given_labels(labels: Any, level: str, classes: dict[str, Mapping[int, str]]) -> np.ndarray | None:
    """Labels as they come from Python: whole numbers that db.bin can hold, or names, whose classes are then noted.

    Raises:
        UsageError: numbers out of range, or names beside names of classes.
    """
    if labels is None:
        return None
    values = np.asarray(labels)
    texts = values.tolist() if values.dtype.kind in "USO" and values.ndim == 1 else []
    if texts and all(isinstance(text, (str, bytes)) for text in texts):
        if level in classes:
            raise UsageError(f"{level}: found names, beside names of classes: give numbers, or names alone")
        try:
            names = [text if isinstance(text, str) else text.decode() for text in texts]
        except UnicodeDecodeError as error:
            raise UsageError(f"{level}: {error.object!r} is no UTF-8 text") from error
        values, named = number_names(names)
        classes[level] = named
    if values.dtype.kind in "iub" and values.ndim in (1, 2) and values.size:
        low, high = (int(limit) for limit in (values.min(), values.max()))
        kind = np.iinfo(np.int32)
        least, most = (kind.min, kind.max) if values.ndim == 1 else (0, 1)
        if low < least or high > most:
            raise UsageError(
                f"{level}: found numbers from {low} to {high}, expected {least} to {most}: number the classes from 0, "
                "or give their names"
            )
    return values


def write_new_index(path: Path, codes: np.ndarray, **arguments: Any) -> str:
    """Makes an index of codes, with the arguments of `build_index`, and writes it to a file; returns its checksum."""
    return write_index(path, *build_index(codes, **arguments))


def rebuild_index(
    database: Records, queries: Records | None, metadata: Mapping[str, Any], extra: Mapping[str, Any]
) -> NewIndex:
    """Makes an index of the items of another one, of the type that was asked for there.

    Args:
        metadata: of the other index.
        extra: what the new one has to say beside that.
    """
    lasting = {name: value for name, value in metadata.items() if name not in _OF_ONE_FILE}
    asked = {**metadata.get("plan", {}), **metadata.get("settings", {})}
    return build_index(
        database.codes,
        ids=database.ids,
        labels=database.labels,
        labels_coarse=database.labels_coarse,
        classes=database.classes,
        rows=database.rows,
        lengths=database.lengths,
        texts=database.texts,
        queries=queries,
        metadata={**lasting, **extra},
        index_type=asked.get("index_type", "flat"),
        recall=asked.get("recall", RECALL),
        memory=asked.get("memory"),
        copy=False,
    )


def write_index(
    path: Path,
    searcher: StoredSearcher,
    index_type: IndexType,
    database: Records,
    queries: Records | None,
    metadata: Mapping[str, Any],
) -> str:
    """Writes an index to a file, whole or not at all; returns the checksum, `Container.checksum`."""
    arrays = database.arrays("database")
    if queries is not None:
        arrays |= {"queries.codes": queries.codes, **queries.arrays("queries")}
    if not index_type.keeps_order:
        arrays[file_format.CODES] = database.codes
    return file_format.write(path, searcher.write, metadata, arrays)


def _ascend(numbers: np.ndarray) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all())
