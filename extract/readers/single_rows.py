"""Files that hold each row as an array of its own: a group an image in HDF5, or `{id: tensor}`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sdc.errors import few, log
from sdc.extract.readers.table import Table, block_rows, unreadable

ReadAll = Callable[[Sequence[str]], Iterator[np.ndarray]]  # the arrays of these names, one after the other


def gather_rows(tables: Sequence[Table], read: ReadAll) -> list[Table]:
    """The tables of a file, those that hold one row each gathered: to one table a column, and their names as `ids`.

    Gathered are arrays of floats of one shape, (d,) or (1, d), that are all that the file holds, or that are of one
    name in every group (`db/1.jpg/descriptor`, `db/2.jpg/descriptor`): a row is called as its group, or its array.
    What else stands in every group with one shape, such as a single label, becomes a column too.

    Args:
        tables: the file's, single values as tables of shape () among them.
        read: reads arrays of the file one by one.
    """
    groups: dict[str, dict[str, Table]] = {}  # by the last part of their names, then by what stands before it
    for table in tables:
        parent, _, leaf = table.name.rpartition("/")
        groups.setdefault(leaf, {})[parent] = table
    parents = {parent for members in groups.values() for parent in members}
    usual = any(table.role for table in tables)
    if len(groups) > 1 and not usual and _alike(tables) and _is_row(tables[0]):
        return [_gathered("arrays", tables, read), _names([table.name for table in tables])]
    every = {leaf: [*members.values()] for leaf, members in groups.items() if members.keys() == parents}
    rows = [leaf for leaf, members in every.items() if _alike(members) and _is_row(members[0])]
    if len(parents) < 2 or not rows:
        return [table for table in tables if table.shape]
    order = list(groups[rows[0]])
    columns = [_gathered(leaf, [groups[leaf][parent] for parent in order], read) for leaf in every]
    others = [
        unreadable(leaf, (len(members),), "arrays", f"is not there in each of the {len(parents)} groups")
        for leaf, members in groups.items()
        if leaf not in every
    ]
    return [*columns, *others, _names(order)]


def _alike(tables: Sequence[Table]) -> bool:
    first = tables[0]
    return all(
        math.prod(table.shape) == math.prod(first.shape) and (table.dtype == first.dtype) and not table.problem
        for table in tables
    )


def _is_row(table: Table) -> bool:
    return table.floating and (len(table.shape) == 1 or (len(table.shape) == 2 and table.shape[0] == 1))


def _gathered(name: str, tables: Sequence[Table], read: ReadAll) -> Table:
    first = tables[0]
    if not _alike(tables):
        return unreadable(name, (len(tables),), first.dtype, "has another shape in some rows than in others")
    inner = first.shape[1:] if _is_row(first) and len(first.shape) == 2 else first.shape
    shape = (len(tables), *inner)

    def blocks() -> Iterator[np.ndarray]:
        names, step = [table.name for table in tables], block_rows(shape, 8)
        block: list[np.ndarray] = []
        for array in read(names):
            block.append(np.reshape(array, inner))
            if len(block) == step:
                yield np.stack(block)
                block = []
        if block:
            yield np.stack(block)

    return Table(name, shape, first.dtype, blocks)


def _names(names: Sequence[str]) -> Table:
    log.info("%d arrays, one a row, in this order: %s", len(names), few(names, most=60))
    return Table("ids", (len(names),), "object", lambda: iter([np.array(names, object)]))
