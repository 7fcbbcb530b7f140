"""Choosing on some queries and measuring on others, with few of them: cross-validation.

Halves would leave each purpose half of the queries; here all choose, and each is measured by what the other nine tenths
choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Part = TypeVar("Part", bound=Sized)
_FOLDS = 10


def query_part(database: Part, queries: Part | None, enough: int) -> tuple[Part, bool]:
    """The query split where it has `enough` queries, else the database, whose items stand in; and whether it is it."""
    if queries is not None and len(queries) >= enough:
        return queries, True
    return database, False


def folds(count: int) -> Iterator[np.ndarray]:
    """Masks (count,) of those that are left out in turn: each of `count` ≥ 2 queries once."""
    fold = np.arange(count) % _FOLDS
    for number in range(min(_FOLDS, count)):
        yield fold == number


def choose_and_validate(
    count: int, choose: Callable[[np.ndarray], T], score: Callable[[T, np.ndarray], np.ndarray]
) -> tuple[T, np.ndarray]:
    """What all queries choose, and (count,) the scores of queries that had no part in choosing.

    Args:
        choose: from a mask (count,) of queries what these choose.
        score: from a choice and the mask of n others their scores (n,).
    """
    return choose(np.ones(count, bool)), cross_validated(count, choose, score)


def cross_validated(
    count: int, choose: Callable[[np.ndarray], T], score: Callable[[T, np.ndarray], np.ndarray]
) -> np.ndarray:
    """(count,) the scores of queries that had no part in choosing; arguments as those of `choose_and_validate`."""
    scores = np.empty(count)
    for left_out in folds(count):
        scores[left_out] = score(choose(~left_out), left_out)
    return scores
