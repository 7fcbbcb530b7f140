"""Which arrays of a file are taken for what: as the user names them, else by their usual names."""

from __future__ import annotations

from collections.abc import Sequence

from sdc.errors import SdcError, UsageError, few, log
from sdc.extract.readers import USUAL_NAMES, Source, Table

OPTIONS = {
    "vectors": "--column", "ids": "--id-column", "labels": "--label-column", "labels_coarse": "--label-column",
    "texts": "--text-column",
}  # fmt: skip
NONE = "none"  # as the name of a column: none is taken, whatever there is


def find_vectors(source: Source, column: str | None = None) -> Table:
    """The array that holds the vectors: the one named, else of a usual name, else the only matrix of floats.

    Raises:
        UsageError: none could be meant, or several.
        SdcError: it is empty, or cannot be read.
    """
    if column is not None:
        vectors = named_column(source, column, "vectors")
        if len(vectors.shape) != 2 or not vectors.numeric:
            raise UsageError(f"{source.name}: {vectors} is no two-dimensional array of numbers, as --column must be")
        return _filled(source, vectors)
    matrices = [table for table in source.tables if len(table.shape) == 2 and table.numeric]
    usual = [table for table in matrices if table.role == "vectors"]
    floats = [table for table in matrices if table.floating and table.role in ("", "vectors")]
    for candidates in (usual, floats, matrices if len(source.tables) == 1 else []):
        if len(candidates) == 1:
            return _filled(source, candidates[0])
    refused = [table for table in source.tables if table.problem and table.role == "vectors"]
    if len(source.tables) == 1 or (len(refused) == 1 and not matrices):
        _refuse_problem(source, (refused or source.tables)[0])
    several = "; --column says which" if matrices else ""
    texts = next((table for table in source.tables if table.role == "vectors" and len(table.shape) == 1), None)
    if texts is not None and texts.dtype in ("object", "bytes") and not texts.problem:
        kind = "bytes" if texts.dtype == "bytes" else "text"
        several = f"; {texts.name} holds {kind}, of which numbers are not made: save it as lists of numbers"
    raise UsageError(
        f"{source.name}: {_found(source.tables)}; expected one two-dimensional array of floats, or one named "
        f"{', '.join(USUAL_NAMES['vectors'][:3])}{several}{_unread(source.tables)}"
    )


def _filled(source: Source, vectors: Table) -> Table:
    if 0 in vectors.shape:
        raise SdcError(f"{source.name} holds no values: found {vectors}, expected at least one row")
    return vectors


def column_beside(source: Source, vectors: Table, role: str, column: str | None = None) -> Table | None:
    """The array for `role` in the vectors' own file: the one named, else of a usual name.

    None where it has not one entry for each row, or where none is wanted.

    Raises:
        UsageError: there is none of that name.
        SdcError: it cannot be read, or has another number of rows and was asked for.
    """
    if column == NONE and not any(table.name == NONE for table in source.tables):
        return None
    n = vectors.shape[0]
    table = named_column(source, column, role) if column else _usual(source.tables, role, vectors)
    if table is None or (role == "texts" and not column and (table.problem or len(table.shape) != 1)):
        return None
    if table.problem:
        other = f", or leave it out with {OPTIONS[role]} {NONE}" if role != "labels_coarse" else ""
        raise SdcError(f"cannot read {source.name}: {table.name} {table.problem}{other}")
    if table.shape[0] == n:
        return table
    if column:
        raise SdcError(f"{source.name}: found {table.shape[0]} entries in {column}, expected {n}, one a row")
    log.warning("%s beside the vectors is not used: found %d, expected %d", table.leaf, table.shape[0], n)
    return None


def column_of(source: Source, role: str, column: str | None = None) -> Table:
    """The array for `role` in a file of its own: the one named, else of a usual name, else the only one.

    Raises:
        UsageError: there is no such array; an only one that is named as something else is not taken either.
        SdcError: it cannot be read.
    """
    tables = source.tables
    table = named_column(source, column, role) if column else _usual(tables, role, None)
    if table is None and len(tables) == 1 and not tables[0].role:
        table = tables[0]
    if table is None:
        raise UsageError(
            f"{source.name}: {_found(tables)}; expected a single array, or one called {role}"
            f"{'' if role == 'labels_coarse' else f'; {OPTIONS[role]} says which'}{_unread(tables)}"
        )
    _refuse_problem(source, table)
    return table


def named_column(source: Source, name: str, role: str) -> Table:
    """The array of a file that a user named: by its whole name, or the last part of it, in this or any case.

    `dim_` stands for the numbered columns `dim_*`.

    Raises:
        UsageError: there is none, or there are several.
        SdcError: it cannot be read.
    """
    wanted = name.lower()
    for matches in (
        [table for table in source.tables if table.name == name],
        [table for table in source.tables if table.leaf == name],
        [table for table in source.tables if wanted in (table.name.lower(), table.leaf.lower())],
        [table for table in source.tables if table.name.lower() == f"{wanted}*"],
    ):
        if len(matches) == 1:
            _refuse_problem(source, matches[0])
            return matches[0]
        if matches:
            raise UsageError(f"{source.name}: several are called {name}: {few(matches, '; ')}")
    raise UsageError(
        f"{source.name}: no column {name!r} for {OPTIONS[role]}; {_found(source.tables)}{_unread(source.tables)}"
    )


def say_taken(source: Source, taken: dict[str, Table]) -> None:
    """Says which arrays of a file were taken for what, and which were not."""
    others = [table for table in source.tables if all(table is not each for each in taken.values())]
    if len(source.tables) > 1:
        log.info("%s: %s", source.name, few((f"{role} from {table}" for role, table in taken.items()), most=240))
    if others:
        log.info("%s: not taken: %s", source.name, few(others, "; ", 240))


def _usual(tables: Sequence[Table], role: str, vectors: Table | None) -> Table | None:
    """The array of a usual name for `role`; of several one in the vectors' group, and of the more usual name."""
    group = "" if vectors is None else vectors.name.rpartition("/")[0]
    names = USUAL_NAMES[role]
    found = [table for table in tables if table.role == role]
    return min(
        found,
        key=lambda table: (table.name.rpartition("/")[0] != group, names.index(table.leaf.lower()), table.leaf),
        default=None,
    )


def _refuse_problem(source: Source, table: Table) -> None:
    if table.problem:
        raise SdcError(f"cannot read {source.name}: {table.name or 'it'} {table.problem}")


def _found(tables: Sequence[Table]) -> str:
    readable = [table for table in tables if not table.problem]
    return f"found {few(readable, '; ') or 'nothing that could be read'}"


def _unread(tables: Sequence[Table]) -> str:
    unread = [table for table in tables if table.problem]
    return f" (not read: {few(unread, '; ', 80)})" if unread else ""
