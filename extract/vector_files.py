"""What a file of vectors, and the files of labels, ids and splits that go with it, hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.labels import Labels, as_ids, as_labels, as_texts, entry_lines, given_names
from sdc.extract.readers import Table, read_tables
from sdc.extract.store import RowNumberIds
from sdc.files import require_file

NAMES = ("features", "embeddings", "vectors")
LABELS, COARSE, IDS = "labels", "labels_coarse", "ids"
CLASSES = ("classes", "class_names", "label_names")  # arrays beside numbers that name their classes
TEXT = (".txt", ".text", "")


def read_vectors(path: Path) -> tuple[np.ndarray, list[str]]:
    """The vectors of a file, (n, d), and their ids: those in the file, else the row numbers. All in memory.

    Raises:
        UsageError, SdcError: as when the same file is imported.
    """
    source = require_file(Path(path), "file of vectors", "numpy.save")
    tables = read_tables(source)
    vectors = find_vectors(source, tables)
    n = vectors.shape[0]
    return vectors.read(), list(read_ids(None, tables, n))


def find_vectors(source: Path, tables: Sequence[Table]) -> Table:
    """The array that holds the vectors, among those of the file `source`.

    Raises:
        UsageError: none could be meant, or several.
        SdcError: it is empty.
    """
    matrices = [table for table in tables if len(table.shape) == 2 and table.numeric]
    named = [table for table in matrices if _leaf(table) in NAMES]
    floats = [table for table in matrices if table.floating and _leaf(table) not in (LABELS, COARSE, IDS)]
    for candidates in (named, floats, matrices if len(tables) == 1 else []):
        if len(candidates) == 1:
            vectors = candidates[0]
            if 0 in vectors.shape:
                raise SdcError(f"{source} holds no values: found {vectors}, expected at least one row")
            return vectors
    listed = "; ".join(map(str, tables)) or "nothing that could be read"
    raise UsageError(
        f"{source}: found {listed}; expected one two-dimensional array of floats, or one named {', '.join(NAMES)}"
    )


def _leaf(table: Table) -> str:
    return table.name.rsplit("/", 1)[-1]


def column_beside(tables: Sequence[Table], name: str, n: int) -> Table | None:
    """The array `name` in the vectors' own file, or None where it has not one entry for each of the `n` rows."""
    for table in tables:
        if _leaf(table) == name:
            if table.shape[0] == n:
                return table
            log.warning("%s beside the vectors is not used: found %d, expected %d", name, table.shape[0], n)
    return None


def read_labels(path: Path | None, beside: Sequence[Table], level: str, n: int) -> Labels | None:
    """The labels of `n` rows: from the file `path`, else from the tables beside the vectors, else None.

    Args:
        level: of the labels, and the name of their array.

    Raises:
        UsageError, SdcError: the file holds no such labels, or not `n` of them.
    """
    values, tables = _column_values(path, beside, level, n)
    if values is None:
        return None
    where = level if path is None else f"{path}, {level}"
    labels = as_labels(values, where)
    if labels.names:
        return labels
    for table in tables:
        if _leaf(table) in CLASSES and len(table.shape) == 1 and not table.numeric:
            names = given_names(as_texts(table.read(), where), level, labels.values, f"{where}: {table.name}")
            return labels._replace(names=names)
    return labels


def read_ids(path: Path | None, beside: Sequence[Table], n: int) -> Sequence[str]:
    """The ids of `n` rows: from the file `path`, else from the tables beside the vectors, else the row numbers.

    Raises:
        UsageError, SdcError: the file holds no such ids, or not `n` of them.
    """
    values, _ = _column_values(path, beside, IDS, n)
    return RowNumberIds(n) if values is None else as_ids(values, str(path or IDS))


def _column_values(
    path: Path | None, beside: Sequence[Table], name: str, n: int
) -> tuple[np.ndarray | None, Sequence[Table]]:
    """The entries of the user's own file, else of the column beside the vectors: one for each of the `n` rows.

    Returns:
        None where there are none; and the tables that stand beside them.
    """
    if path is None:
        column = column_beside(beside, name, n)
        return (None if column is None else column.read()), beside
    values, tables = _read_column(Path(path), name)
    if len(values) != n:
        heading = f" ({values[0]!r} in its first line, is that a heading?)" if _has_heading(path, values, n) else ""
        raise SdcError(f"{path}: found {len(values)} {name}, expected {n}, one a row of the vectors{heading}")
    return values, tables


def _has_heading(path: Path, values: np.ndarray, n: int) -> bool:
    return Path(path).suffix.lower() in TEXT and len(values) == n + 1


def _read_column(path: Path, name: str) -> tuple[np.ndarray, Sequence[Table]]:
    """One array from a file: the lines of a text file, the only array of a file, or the one called `name`."""
    require_file(path, f"file of {name}", "numpy.save")
    if path.suffix.lower() in TEXT:
        return np.array(entry_lines(path), object), []
    tables = read_tables(path)
    if len(tables) > 1:
        columns = [table for table in tables if _leaf(table) in (name, name.removesuffix("s"))]
    else:
        columns = tables
    if len(columns) != 1:
        listed = "; ".join(map(str, tables)) or "nothing that could be read"
        raise UsageError(f"{path}: found {listed}; expected a single array, or one called {name}")
    return columns[0].read(), tables


def read_splits(path: Path) -> dict[str, np.ndarray]:
    """The arrays of row numbers in an npz file, by the splits' names."""
    require_file(path, "file of splits", "numpy.savez")
    if path.suffix.lower() != ".npz":
        raise UsageError(f"{path} is no npz file, expected one with row numbers train, query and database")
    return {table.name: table.read() for table in read_tables(path)}
