"""Choosing on some queries and measuring on others, with few of them: cross-validation.

Halves would leave each purpose half of the queries; here all choose, and each is measured by what the other nine tenths
choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_FOLDS = 10


def folds(count: int) -> Iterator[np.ndarray]:
    """Masks (count,) of those that are left out in turn: each of `count` ≥ 2 queries once."""
    fold = np.arange(count) % _FOLDS
    for number in range(min(_FOLDS, count)):
        yield fold == number


def cross_validated(
    count: int, choose: Callable[[np.ndarray], T], score: Callable[[T, np.ndarray], np.ndarray]
) -> np.ndarray:
    """(count,) the scores of queries that had no part in choosing.

    Args:
        choose: from a mask (count,) of queries what these choose.
        score: from a choice and the mask of n others their scores (n,).
    """
    found = np.empty(count)
    for left_out in folds(count):
        found[left_out] = score(choose(~left_out), left_out)
    return found
