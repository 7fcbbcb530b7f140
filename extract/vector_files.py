"""What a file of vectors, and the files of labels, ids and splits that go with it, hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.readers import Table, read_tables
from sdc.extract.store import RowNumberIds
from sdc.files import require_file

NAMES = ("features", "embeddings", "vectors")
LABELS, COARSE, IDS = "labels", "labels_coarse", "ids"


def read_vectors(path: Path) -> tuple[np.ndarray, list[str]]:
    """The vectors of a file, (n, d), and their ids: those in the file, else the row numbers. All in memory.

    Raises:
        UsageError, SdcError: as when the same file is imported.
    """
    source = require_file(Path(path), "file of vectors", "numpy.save")
    tables = read_tables(source)
    vectors = find_vectors(source, tables)
    n = vectors.shape[0]
    return vectors.read(), list(read_ids(None, column_beside(tables, IDS, n), n))


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


def read_labels(path: Path | None, beside: Table | None, name: str, n: int) -> np.ndarray | None:
    """The labels of `n` rows: from the file `path`, else from the column beside the vectors, else None.

    Names become numbers, in their sorted order.

    Raises:
        UsageError, SdcError: the file holds no such labels, or not `n` of them.
    """
    values = _column_values(path, beside, name, n)
    if values is None:
        return None
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.floor(values)).all():
        return values.astype(np.int64)
    if values.dtype.kind not in "OUS" or values.ndim != 1:
        return values  # whole numbers; or what the listing refuses
    names = _texts(values, path or name)
    if all(re.fullmatch(r"-?\d{1,18}", text) for text in names):
        return np.array([int(text) for text in names])
    classes, numbers = np.unique(np.array(names), return_inverse=True)
    log.info("%s: %d classes, numbered in this order: %s", name, len(classes), ", ".join(classes[:10].tolist()))
    return numbers


def read_ids(path: Path | None, beside: Table | None, n: int) -> Sequence[str]:
    """The ids of `n` rows: from the file `path`, else from the column beside the vectors, else the row numbers.

    Raises:
        UsageError, SdcError: the file holds no such ids, or not `n` of them.
    """
    values = _column_values(path, beside, IDS, n)
    if values is None:
        return RowNumberIds(n)
    if values.ndim != 1 or values.dtype.kind == "f":
        raise SdcError(
            f"{path or IDS}: found {values.dtype} of shape {values.shape}, expected text or whole numbers, one a row"
        )
    return _texts(values, path or IDS)


def _column_values(path: Path | None, beside: Table | None, name: str, n: int) -> np.ndarray | None:
    """The entries of the user's own file, else of the column beside the vectors: one for each of the `n` rows."""
    if path is None:
        return None if beside is None else beside.read()
    values = _read_column(Path(path), name)
    if len(values) != n:
        raise SdcError(f"{path}: found {len(values)} {name}, expected {n}, one a row of the vectors")
    return values


def _texts(values: np.ndarray, where: Path | str) -> list[str]:
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise SdcError(f"{where}: {error.object!r} is not UTF-8 text") from error


def _read_column(path: Path, name: str) -> np.ndarray:
    """One array from a file: the lines of a text file, the only array of a file, or the one called `name`."""
    require_file(path, f"file of {name}", "numpy.save")
    if path.suffix.lower() in (".txt", ".text", ""):
        return np.array(_lines(path), object)
    tables = read_tables(path)
    if len(tables) > 1:
        columns = [table for table in tables if _leaf(table) in (name, name.removesuffix("s"))]
    else:
        columns = tables
    if len(columns) != 1:
        listed = "; ".join(map(str, tables)) or "nothing that could be read"
        raise UsageError(f"{path}: found {listed}; expected a single array, or one called {name}")
    return columns[0].read()


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise SdcError(f"cannot read {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if lines[-1] == "":
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    if "" in lines:
        raise SdcError(f"{path}: line {lines.index('') + 1} is empty, expected one entry a line")
    return lines


def read_splits(path: Path) -> dict[str, np.ndarray]:
    """The arrays of row numbers in an npz file, by the splits' names."""
    require_file(path, "file of splits", "numpy.savez")
    if path.suffix.lower() != ".npz":
        raise UsageError(f"{path} is no npz file, expected one with row numbers train, query and database")
    return {table.name: table.read() for table in read_tables(path)}
