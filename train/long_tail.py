"""Long-tailed training sets: classes of exponentially falling size, and which of them are head, middle and tail.

The law is that of Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples" (CVPR
2019), by which the long-tailed CIFAR sets are made: class i = 0 … C − 1 keeps n · ratio^(−i / (C − 1)) rows, rounded
down.
"""

from __future__ import annotations

import math

import numpy as np

from sdc.errors import UsageError
from sdc.extract.store import NO_LABEL

GROUPS = ("head", "middle", "tail")


def long_tail(rows: np.ndarray, labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Those of `rows` that are left when the classes fall off from the first to the last by `ratio`.

    The order of the classes and the rows of each are left to chance. n is the size of the first class, or less where
    a later one is too small for its share of that: the ratio is kept, to rounding, in unequal classes too.

    Args:
        rows: (N,) row numbers.
        labels: (N,) whole numbers, the class of each.
        ratio: size of the largest over that of the smallest class, above 1.
        seed: the same one gives the same order of classes, and at a higher ratio a subset.

    Returns:
        The rows kept, in the order of `rows`; at least one of each class, and none without a label.

    Raises:
        UsageError: a ratio that is none, fewer than two classes, or classes too small for the ratio.
    """
    if not 1 < ratio < math.inf:
        raise UsageError(f"--imbalance is {ratio:g}, expected the largest class over the smallest: a number above 1")
    rows, labels = rows[labels != NO_LABEL], labels[labels != NO_LABEL]
    classes, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise UsageError(f"--imbalance needs at least two classes, found {len(classes)} among the training rows")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(classes))
    shares = ratio ** (-np.arange(len(classes)) / (len(classes) - 1))
    largest = (sizes[order] / shares).min()
    counts = np.floor(largest * shares * (1 + 1e-12)).astype(np.int64)  # whole numbers stay so, whatever the rounding
    if not counts.all():
        raise UsageError(
            f"--imbalance {ratio:g} leaves no row of the smallest of {len(classes)} classes: "
            f"the largest can have {int(largest)} rows, so choose a ratio below that"
        )
    groups = [
        rng.permutation(np.flatnonzero(numbers == label))[:count] for label, count in zip(order, counts, strict=True)
    ]
    sampled: np.ndarray = rows[np.sort(np.concatenate(groups))]
    return sampled


def class_groups(labels: np.ndarray) -> dict[str, list[int]]:
    """The classes among training labels (N,) by size: the largest third is `head`, the smallest `tail`.

    Both have C/3 classes, rounded, and the rest is `middle` (none, where there are two). Within each the largest come
    first, equal ones by number.
    """
    classes, sizes = np.unique(labels[labels != NO_LABEL], return_counts=True)
    ordered = classes[np.argsort(-sizes, kind="stable")]
    third = round(len(ordered) / 3)
    parts = np.split(ordered, [third, len(ordered) - third])
    return {name: part.tolist() for name, part in zip(GROUPS, parts, strict=True)}
