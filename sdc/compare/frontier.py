"""The frontier of `sdc compare`: for each memory budget, what recall can be had in how little time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sdc.compare.results import COLORS, Result, near_cutoff


def budgets(results: Sequence[Result]) -> list[int]:
    """Bytes a vector in memory: the powers of 2 from which on another method fits, ascending."""
    return sorted({1 << math.ceil(math.log2(each.bytes)) for each in results if each.bytes and not each.refused})


def frontier(results: Sequence[Result], budget: int, k: int) -> list[Result]:
    """Of the methods of at most `budget` bytes a vector those that no other beats in both time and recall@k.

    The fastest first; each next one takes longer and finds more.
    """
    fitting = [each for each in results if each.bytes and each.bytes <= budget and each.latency and not each.refused]
    best: list[Result] = []
    for each in sorted(fitting, key=lambda one: (_milliseconds(one), -one.recall[k].value)):
        if not best or each.recall[k].value > best[-1].recall[k].value:
            best.append(each)
    return best


def draw_frontier(path: Path, results: Sequence[Result], cutoffs: Sequence[int]) -> None:
    """Recall over the median time of a query, a line a budget, its methods named at their points."""
    from matplotlib.figure import Figure

    near = near_cutoff(cutoffs)
    figure = Figure(figsize=(7.5, 4.8), constrained_layout=True)
    axes = figure.add_subplot()
    named: set[tuple[str, int | None]] = set()
    for number, budget in enumerate(budgets(results)):
        best = frontier(results, budget, near)
        times, recalls = [_milliseconds(each) for each in best], [each.recall[near].value for each in best]
        axes.plot(
            times, recalls, drawstyle="steps-post", marker="o", markersize=4, color=COLORS[number % len(COLORS)],
            label=f"{budget} bytes", zorder=3 - number / 100,  # where lines lie on each other, the least budget is seen
        )  # fmt: skip
        for each, x, y in zip(best, times, recalls, strict=True):
            if (each.method, each.bits) not in named:
                axes.annotate(each.method, (x, y), xytext=(3, 4), textcoords="offset points", fontsize=7)
                named.add((each.method, each.bits))
    axes.set_xscale("log")
    axes.set(xlabel="median of a query, ms (one thread)", ylabel=f"recall@{near}")
    axes.grid(alpha=0.3)
    axes.legend(title="in memory, a vector at most", fontsize=8)
    figure.savefig(path, format="png", dpi=130)


def _milliseconds(result: Result) -> float:
    assert result.latency is not None
    return result.latency.total[0]
