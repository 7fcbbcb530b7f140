"""The tables of `sdc ablate`: one tidy row a cell, and mean ± sd over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdc.experiments.grid import Cell, Value, describe, show
from sdc.experiments.table_files import DASH, markdown_table, with_spread
from sdc.retrieve.evaluate import table_columns

Row = dict[str, Any]

# Columns of results.csv that are there only where they were measured, in the revisited protocol, with coarse labels and
# with imbalance, and where they stand in a cell's file.
LEVELS = ("easy", "medium", "hard")
OPTIONAL: dict[str, tuple[str, ...]] = {
    **{f"map_{level}": ("evaluate", level, "map") for level in LEVELS},
    **{f"map_{level}_float": ("evaluate", level, "map_float") for level in LEVELS},
    "map_coarse": ("evaluate", "coarse", "map"),
    "fall": ("evaluate", "fall"),
    "map_head": ("evaluate", "groups", "head", "map"),
    "map_middle": ("evaluate", "groups", "middle", "map"),
    "map_tail": ("evaluate", "groups", "tail", "map"),
}


def measured_columns() -> dict[str, tuple[str, ...]]:
    """Columns of results.csv that are measured, and where they stand in a cell's file."""
    return {
        "at": ("evaluate", "at"),
        **{column.name: ("evaluate", *column.keys) for column in table_columns()},
        "overlap": ("diagnose", "overlap", "codes"),
        "map_float": ("evaluate", "map_float"),
        "overlap_float": ("diagnose", "overlap", "features"),
        "seconds": ("seconds",),
        "version": ("version",),
    }


def shown_columns() -> dict[str, tuple[str, str]]:
    """Columns of results.md: titles and formats."""
    metrics = {column.name: (column.title, ".3f") for column in table_columns()}
    return {
        "map": metrics.pop("map"),
        **{f"map_{level}": (f"mAP {level}", ".3f") for level in LEVELS},
        "map_coarse": ("coarse mAP", ".3f"),
        "fall": ("fall to fine", ".3f"),
        "map_head": ("mAP of head", ".3f"),
        "map_middle": ("of middle", ".3f"),
        "map_tail": ("of tail", ".3f"),
        **metrics,
        "overlap": ("overlap", ".3f"),
        "seconds": ("training, s", ".1f"),
    }


def make_rows(cells: Sequence[Cell], results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of results.csv, from cells and their results; what was not measured is None.

    `map`, `recall@k` and `overlap` are those of `sdc evaluate` and `sdc diagnose`, `map_float` and `overlap_float` the
    same of the float features; `findings` are the alarms of `sdc diagnose`, by name; `refused` is why there are none.
    """
    optional = {
        name: path for name, path in OPTIONAL.items() if any(_look_up(result, path) is not None for result in results)
    }
    columns, rows = {**measured_columns(), **optional}, []
    for cell, result in zip(cells, results, strict=True):
        settings = {
            "features": str(cell.features),
            **cell.values,
            "bits": cell.settings.bits,
            "seed": cell.settings.seed,
        }
        measured = {name: _look_up(result, path) for name, path in columns.items()}
        findings = " ".join(finding["finding"] for finding in result.get("diagnose", {}).get("findings", ()))
        rows.append({**settings, **measured, "findings": findings or None, "refused": result.get("refused")})
    return rows


def _look_up(result: Any, path: Sequence[str]) -> Any:
    for key in path:
        result = result.get(key) if result is not None else None
    return result


def values(rows: Iterable[Row], column: str) -> list[float]:
    """The values of a column that were measured."""
    return [row[column] for row in rows if row.get(column) is not None]


def mean_sd(rows: Iterable[Row], column: str) -> tuple[float, float] | None:
    """The mean and sample standard deviation (0 of one value); None where nothing was measured."""
    measured = values(rows, column)
    return (statistics.mean(measured), statistics.stdev(measured) if len(measured) > 1 else 0.0) if measured else None


def grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[tuple[Value, ...], list[Row]]:
    """Rows by their values in the columns, in order of appearance."""
    groups: dict[tuple[Value, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def markdown(rows: Sequence[Row], varied: Sequence[str], title: str, notes: str) -> str:
    """One table a set: a line for each combination of the varied settings and bits, mean ± sd over seeds."""
    sections = [f"# {title}", notes]
    for (features,), set_rows in grouped(rows, ["features"]).items():
        sections += [f"## {features}", _table(set_rows, varied), *_reasons(set_rows, varied)]
    return "\n\n".join(sections) + "\n"


def _table(rows: Sequence[Row], varied: Sequence[str]) -> str:
    columns = shown_columns()
    shown = {column: kind for column, kind in columns.items() if any(row.get(column) is not None for row in rows)}
    shown = shown or {"map": columns["map"]}
    at = values(rows, "at")
    titles = [f"{title}@{at[0]}" if column == "map" and at else title for column, (title, _) in shown.items()]
    lines = []
    for combination, group in grouped(rows, [*varied, "bits"]).items():
        scores = [_score(group, column, style) for column, (_, style) in shown.items()]
        lines.append([*map(show, combination), *scores])
    exact = [values(rows, f"{column}_float")[:1] for column in shown]
    if any(exact):
        styles = [style for _, style in shown.values()]
        floats = ["".join(f"{value:{style}}" for value in group) for group, style in zip(exact, styles, strict=True)]
        lines.append(["float features, cosine", *[""] * len(varied), *floats])
    return markdown_table([*varied, "bits", *titles], lines)


def _score(rows: Sequence[Row], column: str, style: str) -> str:
    scores = mean_sd(rows, column)
    if scores is None:
        return DASH
    count, (mean, sd) = len(values(rows, column)), scores
    text = with_spread(mean, sd if count > 1 else None, style)
    return text if count == len(rows) else f"{text} ({count} of {len(rows)} seeds)"


def _reasons(rows: Iterable[Row], varied: Sequence[str]) -> list[str]:
    """Why there are dashes, or fewer seeds: a line for each combination and reason."""
    lines = []
    for (*_, bits, reason), group in grouped(rows, [*varied, "bits", "refused"]).items():
        if reason is not None:
            seeds = ", ".join(str(row["seed"]) for row in group)
            combination = describe({name: group[0][name] for name in varied}, bits)
            lines.append(f"{DASH} {combination}, seed{'s' * (len(group) > 1)} {seeds}: {reason}")
    return lines
