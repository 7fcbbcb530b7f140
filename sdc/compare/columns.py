"""The columns of `sdc compare`: a new one is a line in `columns`, for results.json, results.csv and results.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sdc.compare.results import Result
from sdc.experiments import DASH, markdown_table, with_spread


@dataclass(frozen=True)
class Column:
    """One value of a result, and where it is shown.

    Attributes:
        keys: in results.json, from the outermost to the value's own.
        value: of a result; None where it was not measured.
        csv: the column's name in results.csv, None to leave it out.
        title: the column's title in results.md, None to leave it out.
        style: its format there.
        mean: the value is a `Mean`, whose standard error stands beside it everywhere.
    """

    keys: tuple[str, ...]
    value: Callable[[Result], Any]
    csv: str | None = None
    title: str | None = None
    style: str = ""
    mean: bool = False


def columns(cutoffs: Sequence[int], at: int = 0) -> list[Column]:
    """All columns, in the order of all three files.

    Args:
        cutoffs: the k of recall@k.
        at: the R of mAP@R, 0 without labels: results.md has no mAP then.
    """

    def plain(name: str, title: str | None = None, style: str = "") -> Column:
        return Column((name,), lambda result: getattr(result, name), name, title, style)

    def recall(k: int) -> Column:
        return Column(("recall", f"{k}"), lambda r: r.recall.get(k), f"recall@{k}", f"recall@{k}", ".3f", True)

    def milliseconds(keys: str, of: Callable[[Any], float], title: str | None = None) -> Column:
        parts = keys.split("_")  # search_p50: search_ms_p50 in results.csv
        name = "_".join([parts[0], "ms", *parts[1:]])
        return Column(("latency_ms", *parts), lambda r: r.latency and of(r.latency), name, title, ".3f")

    return [
        plain("method", "method"),
        plain("bits"),
        plain("query", "query"),
        plain("bytes", "bytes", "d"),
        *map(recall, cutoffs),
        Column(("map",), lambda r: r.map, "map", f"mAP@{at}" if at else None, ".3f", True),
        Column(("above",), _above),
        Column(("disk_bytes",), lambda result: result.disk, "disk_bytes", "on disk", "d"),
        Column(("build_seconds",), lambda r: r.build, "build_seconds", "build, s", ".1f"),
        milliseconds("encode", lambda latency: latency.encode, "encode, ms"),
        milliseconds("search_p50", lambda latency: latency.search[0], "search, ms"),
        milliseconds("search_p99", lambda latency: latency.search[1], "p99"),
        milliseconds("total_p50", lambda latency: latency.total[0]),
        milliseconds("total_p99", lambda latency: latency.total[1]),
        Column(("latency_ms", "timings"), lambda r: r.latency and r.latency.timings),
        Column(("locality",), lambda r: r.locality),
        plain("refused"),
    ]


def _above(result: Result) -> dict[str, dict[str, Any]]:
    return {other: {score: mean._asdict() for score, mean in means.items()} for other, means in result.above.items()}


def json_record(result: Result, cutoffs: Sequence[int]) -> dict[str, Any]:
    """A result as results.json has it."""
    record: dict[str, Any] = {}
    for column in columns(cutoffs):
        value = column.value(result)
        *groups, last = column.keys
        if groups and value is None:  # of a method that could not be built
            record.setdefault(groups[0], {} if groups[0] == "recall" else None)
            continue
        target = record
        for group in groups:
            target = target.setdefault(group, {})
        target[last] = value._asdict() if column.mean and value else value
    return record


def csv_row(result: Result, cutoffs: Sequence[int]) -> dict[str, Any]:
    """A result as results.csv has it. What was not measured is None."""
    row: dict[str, Any] = {}
    for column in columns(cutoffs):
        if column.csv is None:
            continue
        value = column.value(result)
        if column.mean:
            mean, se = value or (None, None)
            row |= {column.csv: mean, f"{column.csv}_se": se}
        else:
            row[column.csv] = value
    return row


def table(results: Sequence[Result], cutoffs: Sequence[int], at: int) -> str:
    """The Markdown table of one length: means ± standard errors over queries."""
    labelled = any(result.map for result in results)
    shown = [column for column in columns(cutoffs, at if labelled else 0) if column.title is not None]
    lines = [[_show(column, result) for column in shown] for result in results]
    refused = [f"{DASH} {result.method}: {result.refused}" for result in results if result.refused]
    return "\n\n".join([markdown_table([column.title or "" for column in shown], lines), *refused])


def _show(column: Column, result: Result) -> str:
    value = column.value(result)
    if value is None:
        return DASH
    return with_spread(value.value, value.se, column.style) if column.mean else f"{value:{column.style}}"
