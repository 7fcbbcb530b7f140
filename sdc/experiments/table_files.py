"""Tables as text: Markdown for readers, CSV for programs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdc.files import atomic_write

DASH = "—"  # stands where nothing was measured


def markdown_table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table. Its columns are not aligned, so that a changed value changes one line."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [titles, ["---"] * len(titles), *lines])


def with_spread(value: float, spread: float | None, style: str) -> str:
    """A number in a format, and its ± where there is one."""
    return f"{value:{style}}" + ("" if spread is None else f" ± {spread:{style}}")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows, which have the same keys, with a header. None becomes an empty field."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `write_csv` wrote, numbers as numbers and empty fields as None."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> str | int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None
