"""How queries are compared with codes: by Hamming distance, or in float by what the codes decode to."""

from __future__ import annotations

from typing import Literal

from sdc.errors import UsageError

Reading = Literal["float", "code"]
READINGS: tuple[Reading, ...] = ("float", "code")


def choose_reading(
    asked: Reading | None, *, radius: bool, tables: bool, items: bool, missing: str | None
) -> tuple[Reading, str]:
    """How queries are compared with codes, and why, a clause.

    Args:
        asked: what was asked for, if anything.
        radius: whether all within a Hamming distance is looked for.
        tables: whether the codes have byte tables.
        items: whether some queries are items of the index, whose features must be read.
        missing: why they cannot be, if so.

    Raises:
        UsageError: a radius is no matter of queries in float.
    """
    if asked == "float" and radius:
        raise UsageError("--radius is a Hamming distance, which queries in float do not have: give one of them")
    if asked is not None:
        return asked, "that was asked for"
    if radius:
        return "code", "a radius is a Hamming distance"
    if not tables:
        return "code", "the model has no byte tables"
    if items and missing:
        return "code", f"their features cannot be read: {missing}"
    return "float", "the model has byte tables"
