"""The figures of `sdc ablate`: similarities before and after, and scores over the varied settings and over bits."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.experiments import Row, describe, grouped, mean_sd, values
from sdc.files import atomic_write
from sdc.retrieve.diagnose import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SENSITIVITY, OVER_BITS, AGAINST_OVERLAP = "sensitivity.png", "bits.png", "overlap.png"
SCORES = ("map", "map_medium", "recall@10", "recall@1")  # the first that was measured is drawn
MOST = 12  # lines, points or panels that are told apart by name


def read_histograms(path: Path) -> dict[str, Histogram]:
    """The histograms, by name, in a table that `sdc.retrieve.diagnose.similarity_histograms.write` wrote."""
    columns: dict[str, list[tuple[float, int, int]]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for name, value, positive, negative in list(csv.reader(file))[1:]:
            columns.setdefault(name, []).append((float(value), int(positive), int(negative)))
    return {
        name: Histogram(*(np.array(column) for column in zip(*rows, strict=True))) for name, rows in columns.items()
    }


def write_figures(folder: Path, rows: Sequence[Row], varied: Sequence[str]) -> list[Path]:
    """Draws the figures that there is data for, from the rows of results.csv.

    sensitivity.png: the score over the varied settings: a heat map where two of them are numbers, lines where one is,
    else bars; a panel for each set and length. bits.png, where there are several lengths: the score over bits.
    overlap.png, where there are labels: the score against the overlap of positive and negative pairs.

    Returns:
        The files written; none where nothing was measured.
    """
    score = next((name for name in SCORES if values(rows, name)), None)
    if score is None:
        return []
    figures = {SENSITIVITY: _sensitivity(rows, varied, score)} if varied else {}
    if len(grouped(rows, ["bits"])) > 1:
        figures[OVER_BITS] = _over_bits(rows, varied, score)
    if values(rows, "overlap"):
        figures[AGAINST_OVERLAP] = _against_overlap(rows, varied, score)
    for name, figure in figures.items():
        with atomic_write(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=130)
    return [folder / name for name in figures]


def _panels(rows: int, columns: int) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4.2 * columns, 3.6 * rows), constrained_layout=True)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _title(rows: Sequence[Row], score: str) -> str:
    at = values(rows, "at")
    return f"mAP@{at[0]}" if score == "map" and at else score


def _words(varied: Sequence[str], row: Row) -> str:
    return describe({name: row[name] for name in varied})


def _number_columns(rows: Sequence[Row], varied: Sequence[str]) -> list[str]:
    """The varied settings that have several numbers as values."""

    def numeric(name: str) -> bool:
        distinct = {row[name] for row in rows} - {None}
        return len(distinct) > 1 and all(type(value) in (int, float) for value in distinct)

    return [name for name in varied if numeric(name)]


def _sensitivity(rows: Sequence[Row], varied: Sequence[str], score: str) -> Figure:
    axes_names = _number_columns(rows, varied)[:2]
    rest = [name for name in varied if name not in axes_names]
    draw = (_bars, _lines, _heat)[len(axes_names)]
    if draw is _heat:  # one combination of the other settings a panel; lines and bars show all of them
        rows = [row for row in rows if None not in [row[name] for name in axes_names]]
    down = grouped(rows, ["features"])
    across = grouped(rows, ["bits", *(rest if draw is _heat else [])])
    figure, panels = _panels(len(down), len(across))
    for line, (features,) in zip(panels, down, strict=True):
        for axes, combination in zip(line, across, strict=True):
            panel_rows = [row for row in across[combination] if row["features"] == features]
            draw(axes, panel_rows, axes_names, rest, score)
            named = describe(dict(zip(rest, combination[1:], strict=False)), combination[0])
            axes.set_title(f"{features}: {named}" if len(down) > 1 else named, fontsize=10)
    return figure


def _heat(axes: Axes, rows: Sequence[Row], names: Sequence[str], rest: Sequence[str], score: str) -> None:
    across, down = (list(dict.fromkeys(row[name] for row in rows)) for name in names)
    means = np.full((len(down), len(across)), np.nan)
    for (x, y), group in grouped(rows, names).items():
        scores = mean_sd(group, score)
        if scores:
            means[down.index(y), across.index(x)] = scores[0]
    bright = np.nanmin(means) + 0.6 * (np.nanmax(means) - np.nanmin(means)) if np.isfinite(means).any() else 0
    image = axes.imshow(means, origin="lower", cmap="viridis", aspect="auto")
    for (y, x), mean in np.ndenumerate(means):
        if np.isfinite(mean):
            color = "black" if mean > bright else "white"
            axes.text(x, y, f"{mean:.3f}".removeprefix("0"), ha="center", va="center", fontsize=6, color=color)
    axes.set_xticks(range(len(across)), [f"{value:g}" for value in across])
    axes.set_yticks(range(len(down)), [f"{value:g}" for value in down])
    axes.set(xlabel=names[0], ylabel=names[1])
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label=_title(rows, score))


def _lines(axes: Axes, rows: Sequence[Row], names: Sequence[str], rest: Sequence[str], score: str) -> None:
    ticks = list(dict.fromkeys(row[names[0]] for row in rows if row[names[0]] is not None))
    groups = grouped(rows, rest)
    for group in groups.values():
        by_value = {value: mean_sd(some, score) for (value,), some in grouped(group, names).items()}
        points = [(ticks.index(at), *scores) for at, scores in by_value.items() if scores and at is not None]
        if points:
            _line(axes, points, _words(rest, group[0]))
        untouched = by_value.get(None)  # by the setting, as a method solved at once is
        if untouched:
            axes.axhline(untouched[0], color="gray", linestyle="--", label=_words(rest, group[0]))
    axes.set_xticks(range(len(ticks)), [f"{value:g}" for value in ticks])
    axes.set(xlabel=names[0], ylabel=_title(rows, score))
    _float_line(axes.axhline, rows, score)
    _legend(axes, len(groups))


def _line(axes: Axes, points: Sequence[tuple[Any, float, float]], label: str) -> None:
    """A line through points (x, mean, sd)."""
    x, means, sds = zip(*points, strict=True)
    axes.errorbar(x, means, sds, capsize=3, marker="o", label=label)


def _bars(axes: Axes, rows: Sequence[Row], names: Sequence[str], rest: Sequence[str], score: str) -> None:
    bars = [(_words(rest, group[0]), mean_sd(group, score) or (0.0, 0.0)) for group in grouped(rows, rest).values()][
        ::-1
    ]
    labels, scores = zip(*bars, strict=True)
    means, sds = zip(*scores, strict=True)
    axes.barh(range(len(bars)), means, xerr=sds, capsize=3)
    axes.set_yticks(range(len(bars)), labels, fontsize=8)
    axes.set(xlabel=_title(rows, score))
    _float_line(axes.axvline, rows, score)
    _legend(axes, 1)


def _over_bits(rows: Sequence[Row], varied: Sequence[str], score: str) -> Figure:
    sets = grouped(rows, ["features"])
    figure, panels = _panels(1, len(sets))
    for axes, ((features,), set_rows) in zip(panels[0], sets.items(), strict=True):
        groups = grouped(set_rows, varied)
        for group in groups.values():
            by_bits = {bits: mean_sd(some, score) for (bits,), some in grouped(group, ["bits"]).items()}
            points = [(bits, *scores) for bits, scores in by_bits.items() if scores]
            if points:
                _line(axes, points, _words(varied, group[0]))
        lengths = sorted({int(row["bits"]) for row in set_rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [str(bits) for bits in lengths])
        axes.set(xlabel="bits", ylabel=_title(rows, score))
        axes.set_title(str(features), fontsize=10)
        _float_line(axes.axhline, set_rows, score)
        _legend(axes, len(groups))
    return figure


def _against_overlap(rows: Sequence[Row], varied: Sequence[str], score: str) -> Figure:
    sets = grouped(rows, ["features"])
    figure, panels = _panels(1, len(sets))
    for axes, ((features,), set_rows) in zip(panels[0], sets.items(), strict=True):
        groups = grouped(set_rows, [*varied, "bits"])
        for group in groups.values():
            overlap, scores = mean_sd(group, "overlap"), mean_sd(group, score)
            if overlap and scores:
                label = describe({name: group[0][name] for name in varied}, group[0]["bits"])
                axes.errorbar(overlap[0], scores[0], scores[1], overlap[1], marker="o", label=label)
        overlap, scores = mean_sd(set_rows, "overlap_float"), mean_sd(set_rows, f"{score}_float")
        if overlap and scores:
            axes.plot(overlap[0], scores[0], "k*", markersize=10, label="float features")
        axes.set(xlabel="overlap of positive and negative pairs", ylabel=_title(rows, score))
        axes.set_title(str(features), fontsize=10)
        _legend(axes, len(groups))
    return figure


def _float_line(draw: Any, rows: Sequence[Row], score: str) -> None:
    scores = mean_sd(rows, f"{score}_float")
    if scores:
        draw(scores[0], color="black", linestyle=":", label="float features")


def _legend(axes: Axes, named: int) -> None:
    if named <= MOST and any(axes.get_legend_handles_labels()[1]):
        axes.legend(fontsize=7)
