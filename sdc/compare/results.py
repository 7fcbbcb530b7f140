"""The results of `sdc compare`, one for each method and length, and their figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Okabe and Ito's palette, which colour-blind readers tell apart; no yellow, which is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#666666")
_APART = 0.03  # octaves between methods of as many bytes
_MARKERS, _DASHES = ("o", "s", "^", "D", "v", "P", "X"), ("-", "--", "-.")
_LINES = (":", (0, (1, 4)), (0, (5, 4)), (0, (5, 2, 1, 2)))  # of what has no length


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
        bits: the length asked for; None for what has none, such as float16.
        query: what a query is compared as, `code` or `float`.
        bytes: of a vector in memory.
        recall: of the exact neighbours, by k.
        map: mAP@R by labels, None without.
        above: by how much this is above each other method of the length, and above float16, query by query: `recall`
            (of the 10 nearest) and `map`.
        build: seconds to train and to encode the database.
        latency: None where it was not measured.
        locality: of a method that has one (see `sdc.train.feature_space`).
        refused: why there is nothing of all that.
        disk: bytes of a vector on disk.
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
    disk: int | None = None


def near_cutoff(cutoffs: Sequence[int]) -> int:
    """The k by which methods are compared: 10, or the greatest below it."""
    return max(k for k in cutoffs if k <= 10)


def of_length(results: Sequence[Result], bits: int) -> list[Result]:
    """The results of codes of `bits`, and those of what has no length, such as float16."""
    return [result for result in results if result.bits in (bits, None)]


def draw(path: Path, results: Sequence[Result], cutoffs: Sequence[int], at: int) -> None:
    """Recall, and mAP where there are labels, over bytes a vector: a line a method; what has no length is a level line.

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
        for series, method in enumerate(methods):
            points = sorted((r.bytes or 0, *of(r)) for r in results if r.method == method and not r.refused)
            sizes, means, errors = zip(*points, strict=True)
            x = np.array(sizes) * 2 ** (_APART * (series - (len(methods) - 1) / 2))
            axes.errorbar(
                x, means, [error or 0 for error in errors], label=method, markersize=5, linewidth=1.5,
                color=COLORS[series % len(COLORS)], marker=_MARKERS[series % len(_MARKERS)],
                linestyle=_DASHES[series % len(_DASHES)],
            )  # fmt: skip
        for style, result in enumerate(one for one in results if one.bits is None and not one.refused):
            label = f"{result.method}, {result.bytes} bytes"
            axes.axhline(of(result).value, color="black", linestyle=_LINES[style % len(_LINES)], label=label)
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
