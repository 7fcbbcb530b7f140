"""What `sdc compare` found: one result a method and length, as JSON, CSV, Markdown and a figure."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DASH = "—"
# Okabe and Ito's palette, which colour-blind readers tell apart; no yellow, which is faint on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#666666")
_APART = 0.03  # octaves between methods of as many bytes
_MARKERS, _DASHES = ("o", "s", "^", "D", "v", "P", "X"), ("-", "--", "-.")


class Mean(NamedTuple):
    """A mean over queries and its standard error, which is None for a single query."""

    value: float
    se: float | None

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        several = len(values) > 1
        return cls(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if several else None)

    @property
    def sign(self) -> int:
        """1 or −1 where the mean is more than two standard errors above or below 0, else 0."""
        clear = self.se is not None and abs(self.value) > 2 * self.se
        return int(np.sign(self.value)) if clear else 0


@dataclass(frozen=True)
class Latency:
    """Milliseconds a single query takes in one thread.

    Attributes:
        encode: from its features to what is searched for, median.
        search: from there to its nearest items, median and 99th percentile.
        total: both, median and 99th percentile.
        timings: queries that were timed.
    """

    encode: float
    search: tuple[float, float]
    total: tuple[float, float]
    timings: int

    @classmethod
    def of(cls, encode: np.ndarray, search: np.ndarray) -> Latency:
        def both(values: np.ndarray) -> tuple[float, float]:
            return float(np.median(values)), float(np.percentile(values, 99))

        return cls(float(np.median(encode)), both(search), both(encode + search), len(search))


@dataclass(frozen=True)
class Result:
    """One method at one length.

    Attributes:
        method: its name.
        bits: the length asked for, None for float16.
        query: what a query is compared as, `code` or `float`.
        bytes: of a vector.
        recall: of the exact neighbours, by k.
        map: mAP@R by labels, None without.
        above: by how much this is above each other method of the length, and above float16, query by query: `recall`
            (of the 10 nearest) and `map`.
        build: seconds to train and to encode the database.
        latency: None where it was not measured.
        locality: of a method that has one (see `sdc.train.feature_space`).
        refused: why there is nothing of all that.
    """

    method: str
    bits: int | None
    query: str | None = None
    bytes: int | None = None
    recall: Mapping[int, Mean] = field(default_factory=dict)
    map: Mean | None = None
    above: Mapping[str, Mapping[str, Mean]] = field(default_factory=dict)
    build: float | None = None
    latency: Latency | None = None
    locality: float | None = None
    refused: str | None = None

    def json(self) -> dict[str, Any]:
        """As results.json has it."""
        latency = self.latency
        return {
            "method": self.method,
            "bits": self.bits,
            "query": self.query,
            "bytes": self.bytes,
            "recall": {str(k): mean._asdict() for k, mean in self.recall.items()},
            "map": self.map and self.map._asdict(),
            "above": {
                other: {score: mean._asdict() for score, mean in means.items()} for other, means in self.above.items()
            },
            "build_seconds": self.build,
            "latency_ms": latency
            and {
                "encode": latency.encode,
                "search": dict(zip(("p50", "p99"), latency.search, strict=True)),
                "total": dict(zip(("p50", "p99"), latency.total, strict=True)),
                "timings": latency.timings,
            },
            "locality": self.locality,
            "refused": self.refused,
        }

    def row(self, cutoffs: Sequence[int]) -> dict[str, Any]:
        """As results.csv has it; what was not measured is None."""
        means = {f"recall@{k}": self.recall.get(k) for k in cutoffs} | {"map": self.map}
        scores: dict[str, float | None] = {}
        for name, mean in means.items():
            scores |= {name: mean and mean.value, f"{name}_se": mean and mean.se}
        latency = self.latency
        return {
            "method": self.method,
            "bits": self.bits,
            "query": self.query,
            "bytes": self.bytes,
            **scores,
            "build_seconds": self.build,
            "encode_ms": latency and latency.encode,
            "search_ms_p50": latency and latency.search[0],
            "search_ms_p99": latency and latency.search[1],
            "total_ms_p50": latency and latency.total[0],
            "total_ms_p99": latency and latency.total[1],
            "refused": self.refused,
        }


def near_cutoff(cutoffs: Sequence[int]) -> int:
    """The k by which methods are compared: 10, or the greatest below it."""
    return max(k for k in cutoffs if k <= 10)


def of_length(results: Sequence[Result], bits: int) -> list[Result]:
    """Those of codes of `bits`, and float16."""
    return [result for result in results if result.bits in (bits, None)]


def write_csv(path: Path, results: Sequence[Result], cutoffs: Sequence[int]) -> None:
    """A row a result."""
    rows = [result.row(cutoffs) for result in results]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def table(results: Sequence[Result], cutoffs: Sequence[int], at: int) -> str:
    """The Markdown table of one length: means ± standard errors over queries."""
    labelled = any(result.map for result in results)
    columns = ["method", "query", "bytes", *(f"recall@{k}" for k in cutoffs), *([f"mAP@{at}"] if labelled else [])]
    columns += ["build, s", "encode, ms", "search, ms", "p99"]
    lines = [columns, ["---"] * len(columns)]
    for result in results:
        latency = result.latency
        scores = [result.recall.get(k) for k in cutoffs] + ([result.map] if labelled else [])
        lines.append(
            [
                result.method,
                result.query or DASH,
                _show(result.bytes, "d"),
                *(_mean(score) for score in scores),
                _show(result.build, ".1f"),
                *(_show(value, ".3f") for value in ((latency.encode, *latency.search) if latency else [None] * 3)),
            ]
        )
    refused = [f"{DASH} {result.method}: {result.refused}" for result in results if result.refused]
    return "\n\n".join(["\n".join(f"| {' | '.join(line)} |" for line in lines), *refused])


def _show(value: float | None, style: str) -> str:
    return DASH if value is None else f"{value:{style}}"


def _mean(mean: Mean | None) -> str:
    if mean is None:
        return DASH
    return f"{mean.value:.3f}" + ("" if mean.se is None else f" ± {mean.se:.3f}")


def draw(path: Path, results: Sequence[Result], cutoffs: Sequence[int], at: int) -> None:
    """Recall, and mAP where there are labels, over bytes a vector: a line a method, float16 dotted.

    Methods stand a little apart, so that each one's error bars are seen.
    """
    from matplotlib.figure import Figure

    near = near_cutoff(cutoffs)
    panels = {f"recall of the {near} nearest" if near > 1 else "recall of the nearest": _recall_at(near)}
    if any(result.map for result in results):
        panels[f"mAP@{at}"] = lambda result: result.map
    figure = Figure(figsize=(1 + 4.6 * len(panels), 4.2), constrained_layout=True)
    methods = list(dict.fromkeys(result.method for result in results if result.bits and not result.refused))
    ticks = sorted({result.bytes for result in results if result.bits and result.bytes})
    for number, (title, of) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for place, method in enumerate(methods):
            points = sorted((r.bytes or 0, *of(r)) for r in results if r.method == method and not r.refused)
            sizes, means, errors = zip(*points, strict=True)
            x = np.array(sizes) * 2 ** (_APART * (place - (len(methods) - 1) / 2))
            axes.errorbar(
                x, means, [error or 0 for error in errors], label=method, markersize=5, linewidth=1.5,
                color=_COLORS[place % len(_COLORS)], marker=_MARKERS[place % len(_MARKERS)],
                linestyle=_DASHES[place % len(_DASHES)],
            )  # fmt: skip
        for result in results:
            if result.bits is None and not result.refused:
                label = f"{result.method}, {result.bytes} bytes"
                axes.axhline(of(result).value, color="black", linestyle=":", label=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(size) for size in ticks])
        axes.minorticks_off()
        axes.set(xlabel="bytes a vector", ylabel=f"{title} (bars: ± 1 standard error)")
        axes.grid(alpha=0.3)
        if number == 0:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, format="png", dpi=130)


def _recall_at(k: int) -> Any:
    return lambda result: result.recall[k]
