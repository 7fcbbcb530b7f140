"""What a file of vectors, and the files of labels, ids and splits that go with it, hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.extract.columns import NONE, OPTIONS, column_beside, column_of, find_vectors
from sdc.extract.labels import Labels, as_ids, as_labels, as_texts, entry_lines, given_names
from sdc.extract.readers import READERS, Table, open_source, read_tables
from sdc.extract.store import PackedIds, RowNumberIds
from sdc.files import require_file

LABELS, COARSE, IDS, TEXTS = "labels", "labels_coarse", "ids", "texts"
CLASSES = ("classes", "class_names", "label_names")  # arrays beside numbers that name their classes
TEXT = (".txt", ".text", "")


def read_vectors(path: Path) -> tuple[np.ndarray, list[str]]:
    """The vectors of a file, (n, d), and their ids: those in the file, else the row numbers. All in memory.

    Raises:
        UsageError, SdcError: as when the same file is imported.
    """
    source = open_source(path, "file of vectors")
    vectors = find_vectors(source)
    return vectors.read(), list(read_ids(None, column_beside(source, vectors, IDS), vectors.shape[0]))


def read_labels(
    path: Path | None, beside: Table | None, tables: Sequence[Table], level: str, n: int, column: str | None = None
) -> Labels | None:
    """The labels of `n` rows: from the file `path`, else from the column beside the vectors, else None.

    Args:
        tables: all that are in the vectors' file: one may name the classes.
        level: of the labels, and the name of their array.
        column: of the file `path`, where another one is meant.

    Raises:
        UsageError, SdcError: the file holds no such labels, or not `n` of them.
    """
    entries = _column_values(path, beside, tables, level, n, column)
    if entries is None:
        return None
    where = level if path is None else f"{path}, {level}"
    labels = as_labels(entries.values, where)
    if entries.classes:
        return labels._replace(names=dict(enumerate(entries.classes)))
    if labels.names:
        return labels
    for table in entries.tables:
        if table.leaf in CLASSES and len(table.shape) == 1 and not table.numeric and not table.problem:
            names = given_names(as_texts(table.read(), where), level, labels.values, f"{where}: {table.name}")
            return labels._replace(names=names)
    return labels


def read_ids(path: Path | None, beside: Table | None, n: int, column: str | None = None) -> Sequence[str]:
    """The ids of `n` rows: from the file `path`, else from the column beside the vectors, else the row numbers.

    Raises:
        UsageError, SdcError: the file holds no such ids, or not `n` of them.
    """
    entries = _column_values(path, beside, [], IDS, n, column)
    return RowNumberIds(n) if entries is None else as_ids(entries.values, str(path or IDS))


def read_texts(beside: Table) -> PackedIds:
    """The texts of rows that searches show, from the column beside the vectors; empty where a row has none.

    Raises:
        SdcError: the column cannot be read, or holds several values a row.
    """
    if len(beside.shape) != 1:
        raise SdcError(f"{beside}: expected one text a row; {OPTIONS[TEXTS]} {NONE} leaves it out")
    parts = [PackedIds.of(map(_text_bytes, block.tolist())) for block in beside.blocks()]
    return PackedIds.joined(parts)


def _text_bytes(value: Any) -> bytes:
    text = "" if value is None else value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.encode(errors="replace")


class _Entries(NamedTuple):
    """An entry a row, the tables that stand beside them, and the names of classes that are kept with them."""

    values: np.ndarray
    tables: Sequence[Table]
    classes: tuple[str, ...] = ()


def _column_values(
    path: Path | None, beside: Table | None, tables: Sequence[Table], name: str, n: int, column: str | None
) -> _Entries | None:
    """The entries of the user's own file, else of the column beside the vectors: one for each of the `n` rows."""
    if path is None:
        return None if beside is None else _Entries(beside.read(), tables, beside.classes)
    entries = _read_column(Path(path), name, column)
    count, values = len(entries.values), entries.values
    if count != n:
        heading = f" ({values[0]!r} in its first line, is that a heading?)" if _has_heading(path, values, n) else ""
        raise SdcError(f"{path}: found {count} {name}, expected {n}, one a row of the vectors{heading}")
    return entries


def _has_heading(path: Path, values: np.ndarray, n: int) -> bool:
    return Path(path).suffix.lower() in TEXT and len(values) == n + 1


def _read_column(path: Path, name: str, column: str | None) -> _Entries:
    """An array of a file: the lines of a text, or a column of a table, of a folder of tables or the like."""
    if path.suffix.lower() in TEXT and not path.is_dir():
        require_file(path, f"file of {name}", "numpy.save")
        return _Entries(np.array(entry_lines(path), object), [])
    if path.is_file() and path.suffix.lower() not in READERS:
        raise UsageError(
            f"cannot read {path}: unknown kind of file {path.suffix!r}, expected .txt with one of the {name} a line, "
            f"or one of {', '.join(READERS)}"
        )
    source = open_source(path, f"file of {name}")
    table = column_of(source, name, column)
    return _Entries(table.read(), source.tables, table.classes)


def read_splits(path: Path) -> dict[str, np.ndarray]:
    """The arrays of row numbers in an npz file, by the splits' names."""
    require_file(path, "file of splits", "numpy.savez")
    if path.suffix.lower() != ".npz":
        raise UsageError(f"{path} is no npz file, expected one with row numbers train, query and database")
    return {table.name: table.read() for table in read_tables(path)}
