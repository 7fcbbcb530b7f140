"""Histograms of the similarities of pairs: what is computed from them, their table and their figure.

All pairs are counted once, by whether they share a label, by the Hamming distance D of their codes, and by the cosine
of their features. Code similarity is 1 − 2D/K, so its K + 1 bins are exact; cosines have `BINS` equal bins on [−1, 1].
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdc.arrays import unit_rows
from sdc.errors import SdcError, UsageError, log
from sdc.files import atomic_write, writable
from sdc.retrieve.bits import hamming
from sdc.retrieve.evaluate import share_label

BINS = 200
FORMATS = (".png", ".csv")
_PAIRS = 1 << 22  # pairs held at once: about a hundred megabytes
_ACROSS = 4  # panels of a figure in a row
_LEVELS = 4096  # quantiles by which two distributions are compared


@dataclass(frozen=True)
class Histogram:
    """Similarities of positive and of other pairs.

    Attributes:
        values: (bins,) the bins' similarities in [−1, 1], ascending.
        positive: (bins,) pairs that share a label; none without labels.
        negative: (bins,) all other pairs.
    """

    values: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    @property
    def pairs(self) -> np.ndarray:
        """(bins,) pairs of either kind."""
        total: np.ndarray = self.positive + self.negative
        return total

    def overlap(self) -> float:
        """Σ_b min(p⁺_b, p⁻_b): 0 where positives and negatives have no similarity in common, 1 where they are alike.

        Raises:
            SdcError: there are no pairs of one kind.
        """
        sums = self.positive.sum(), self.negative.sum()
        if not all(sums):
            raise SdcError(f"an overlap needs positive and negative pairs, found {sums[0]} and {sums[1]}")
        return float(np.minimum(self.positive / sums[0], self.negative / sums[1]).sum())

    def mean_and_sd(self) -> tuple[float, float]:
        """Of the similarities of all pairs."""
        mean = np.average(self.values, weights=self.pairs)
        return float(mean), float(np.sqrt(np.average((self.values - mean) ** 2, weights=self.pairs)))

    def quantiles(self, levels: np.ndarray) -> np.ndarray:
        """Of the similarities of all pairs: the bins' values at levels in (0, 1)."""
        cumulative = np.cumsum(self.pairs) / self.pairs.sum()
        found: np.ndarray = self.values[np.minimum(np.searchsorted(cumulative, levels), len(self.values) - 1)]
        return found

    def distance(self, inverse_cdf: Callable[[np.ndarray], np.ndarray]) -> float:
        """W1, on [−1, 1], of the similarities of all pairs to a distribution given by its F⁻¹ on [0, 1]."""
        levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
        return float(np.abs(self.quantiles(levels) - (2 * inverse_cdf(levels) - 1)).mean())


def count_pairs(codes: np.ndarray, features: np.ndarray | None = None, labels: np.ndarray | None = None) -> np.ndarray:
    """Counts all pairs of n items, each pair once, block by block.

    Args:
        codes: (n, K // 8) uint8.
        features: (n, d) floats; a row of zeros has cosine 0 to all.
        labels: (n,) whole numbers, or (n, C) multi-hot: a pair is positive if it shares at least one.

    Returns:
        (2, K + 1, bins) int64: negative and positive pairs by Hamming distance and by bin of the cosine; without
        labels all are negative, without features there is one bin.
    """
    count, distances = len(codes), codes.shape[1] * 8 + 1
    bins = 1 if features is None else BINS
    counts = np.zeros(2 * distances * bins, np.int64)
    if features is not None:
        features = unit_rows(features, np.float32)
    size = max(1, _PAIRS // count)
    for start in range(0, count, size):
        rows, others = slice(start, start + size), slice(start, None)
        later = np.arange(count - start) > np.arange(len(codes[rows]))[:, None]
        cells = hamming(codes[rows], codes[others])
        if features is not None:
            scaled = (features[rows] @ features[others].T + 1) * (bins / 2)
            cells = cells * bins + np.clip(scaled, 0, bins - 1).astype(np.int32)
        if labels is not None:
            cells += distances * bins * share_label(labels[rows], labels[others])
        counts += np.bincount(cells[later], minlength=len(counts))
    return counts.reshape(2, distances, bins)


def of_codes(counts: np.ndarray) -> Histogram:
    """The histogram of code similarities in what `count_pairs` returns."""
    values = 1 - 2 * np.arange(counts.shape[1])[::-1] / (counts.shape[1] - 1)
    negative, positive = counts.sum(axis=2)[:, ::-1]
    return Histogram(values, positive, negative)


def of_features(counts: np.ndarray) -> Histogram:
    """The histogram of the features' cosines in what `count_pairs` returns."""
    values = (2 * np.arange(counts.shape[2]) + 1) / counts.shape[2] - 1
    negative, positive = counts.sum(axis=1)
    return Histogram(values, positive, negative)


def correlation(counts: np.ndarray) -> float:
    """Pearson's, over pairs, of code similarity and cosine; 0 where one of them does not vary.

    Args:
        counts: (K + 1, bins) pairs by Hamming distance and bin of the cosine.
    """
    total = counts.sum()
    similarity, cosine = -np.arange(counts.shape[0], dtype=np.float64), np.arange(counts.shape[1], dtype=np.float64)
    if not total:
        return 0.0
    similarity -= counts.sum(axis=1) @ similarity / total
    cosine -= counts.sum(axis=0) @ cosine / total
    variances = counts.sum(axis=1) @ similarity**2 * (counts.sum(axis=0) @ cosine**2)
    return float(similarity @ counts @ cosine / np.sqrt(variances)) if variances > 0 else 0.0


def check(path: Path) -> None:
    """Refuses, before anything is computed, a file that could not be written.

    Raises:
        UsageError: its ending is none of `FORMATS`; and as `sdc.files.writable`.
        SdcError: as `sdc.files.writable`.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"histograms go to a .png (figure) or a .csv (table) file, found {path}")
    writable(path)


def write(path: Path, panels: Mapping[str, Histogram]) -> Path:
    """Writes histograms, by their names, as a figure of one panel each or as one table, by the file's ending.

    Raises:
        SdcError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        if path.suffix == ".csv":
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(_table(panels))
        else:
            _draw(temporary, panels)
    log.info("similarity histograms: %s", path)
    return path


def _table(panels: Mapping[str, Histogram]) -> Iterator[tuple[object, ...]]:
    yield "space", "similarity", "positive_pairs", "negative_pairs"
    for name, histogram in panels.items():
        columns = histogram.values, histogram.positive, histogram.negative
        for value, positive, negative in zip(*(column.tolist() for column in columns), strict=True):
            yield name, round(value, 12), positive, negative


def _draw(path: Path, panels: Mapping[str, Histogram]) -> None:
    from matplotlib.figure import Figure

    across = min(len(panels), _ACROSS)
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(1 + 4 * across, 3.4 * down), constrained_layout=True)
    places = [figure.add_subplot(down, across, number + 1) for number in range(len(panels))]
    for axes, (name, histogram) in zip(places, panels.items(), strict=True):
        title, values = name, histogram.values
        kinds = {"positive pairs": histogram.positive, "negative pairs": histogram.negative}
        if histogram.positive.any() and histogram.negative.any():
            title = f"{name}: overlap {histogram.overlap():.3f}"
        else:
            kinds = {"pairs": histogram.pairs}
        for label, counts in kinds.items():
            density = counts / counts.sum() / (values[1] - values[0])
            axes.fill_between(values, density, step="mid", alpha=0.5, label=label)
        axes.set(xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1), ylim=(0, None), xlabel="similarity", ylabel="density")
        axes.set_title(title, fontsize=10)
        axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=130)
