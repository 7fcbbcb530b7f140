"""Which type an index gets, and the index of it: as asked, or the fastest that reaches the recall, as measured."""

from __future__ import annotations

from dataclasses import replace

from sdc.errors import UsageError
from sdc.retrieve.index.index_types.base import BuildRequest, Built
from sdc.retrieve.index.index_types.registry import AUTO, load_index_type, load_index_types
from sdc.retrieve.index.records import Records
from sdc.settings import checked_value

RECALL = 0.95  # asked for by default
SMALL = 100_000  # words (8 bytes of a code): comparing fewer takes 0.1 to 0.2 ms
_BASE = "flat"  # what other types are compared with


def check_index_type(index_type: str, recall: float, memory: int | None) -> None:
    """Raises UsageError where the type is unknown, or recall or memory out of range."""
    checked_value("index_type", index_type, str)
    checked_value("recall", recall, float)
    checked_value("memory", memory, int | None)
    exact = index_type != AUTO and load_index_type(index_type).exact
    if not 0 < recall <= 1 or (recall == 1 and not exact):
        raise UsageError(f"--recall must be above 0 and below 1, found {recall:g}: --index-type flat is exact")
    if memory is not None and memory < 1:
        raise UsageError(f"--memory must be at least 1 byte, found {memory}")


def check_fits(count: int, width: int, index_type: str, memory: int | None) -> None:
    """Raises UsageError where `count` codes of `width` bytes do not fit into the memory."""
    kind = _BASE if index_type == AUTO else index_type
    flat, least = (load_index_type(name).footprint(count, width) for name in (_BASE, kind))
    if memory is not None and least > memory:
        smaller = f"; as flat they take {flat}" if flat < least else ""
        raise UsageError(
            f"{count} codes of {width * 8} bits take {least} bytes as {kind}, --memory allows {memory}{smaller}"
        )


def choose(
    database: Records,
    queries: Records | None,
    index_type: str,
    *,
    recall: float = RECALL,
    memory: int | None = None,
    seed: int = 0,
) -> Built:
    """Decides on the index of a database, and builds it.

    Args:
        queries: its query split, if any, to measure with.
        index_type: a name in `INDEX_TYPES`, or auto.
        recall: recall@10 against exact search that an approximate type is to reach.
        memory: bytes that the codes and lists may take.

    Raises:
        UsageError: recall or memory out of range, or the codes do not fit into the memory.
    """
    check_index_type(index_type, recall, memory)
    count, width = database.codes.shape
    check_fits(count, width, index_type, memory)
    split = database.codes[:0], database.rows[:0]
    if queries is not None:
        split = queries.codes, queries.rows
    request = BuildRequest(database.codes, database.rows, *split, recall, memory, index_type == AUTO, seed)
    return _fastest(request) if request.auto else load_index_type(index_type).build(request)


def _fastest(request: BuildRequest) -> Built:
    """The fastest of the types that compete with exact search; exact search where none of them is worth it."""
    count, width = request.codes.shape
    if count * -(-width // 8) < SMALL:
        base = load_index_type(_BASE).build(request)
        why = f"{count} codes of {8 * width} bits are compared in a fraction of a millisecond"
        return base._replace(choice=replace(base.choice, why=why))
    built = [each.build(request) for each in load_index_types() if each.competes]
    return min(built, key=_milliseconds)


def _milliseconds(built: Built) -> tuple[bool, float]:
    """Orders what competed: other types than exact search first, the fastest first."""
    return built.choice.index_type == _BASE, built.choice.milliseconds or 0.0
