"""The metrics of `sdc evaluate`, by their keys in its JSON, from which the columns of tables are derived."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from sdc.errors import SdcError
from sdc.retrieve.evaluate import precision_recall
from sdc.retrieve.evaluate.ranking_metrics import Denominator, Order, average_precision_of_groups
from sdc.retrieve.features import CUTOFFS


@dataclass(frozen=True)
class Rankings:
    """The rankings of all queries at one level of labels, or by one list of a ground truth.

    Attributes:
        sizes: (Q, groups) items in each group of ties, nearest first.
        hits: (Q, groups) those of them that are relevant.
        at: R of mAP@R.
        denominator: of AP@R.
        no_hit: a query that no order of ties gives a relevant item counts as 0 (`zero`), or is left out (`skip`).
        cutoffs: values of k, ascending.
        overlaps: by k, (Q,) the expected |top k ∩ top k by the features' cosine| / k; none where it was not measured.
    """

    sizes: np.ndarray
    hits: np.ndarray
    at: int
    denominator: Denominator
    no_hit: str
    cutoffs: Sequence[int]
    overlaps: Mapping[int, np.ndarray]

    @cached_property
    def aps(self) -> dict[str, np.ndarray]:
        """Each query's AP@R, by its name in the curves' file."""
        return {
            "ap": self._aps(self.at, "expected"),
            "ap_best": self._aps(self.at, "best"),
            "ap_worst": self._aps(self.at, "worst"),
            "ap_all": self._aps(int(self.sizes.sum(axis=1).max()), "expected"),
        }

    @property
    def reached(self) -> np.ndarray:
        """(Q,) whether some order of ties has a relevant item in the top R."""
        reached: np.ndarray = self.aps["ap_best"] > 0
        return reached

    @cached_property
    def precision_and_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Each (Q, cut-offs)."""
        return precision_recall.at_cutoffs(self.sizes, self.hits, self.cutoffs)

    def by_cutoff(self, values: np.ndarray) -> dict[str, float]:
        """The means of values (Q, cut-offs)."""
        return {str(k): float(column.mean()) for k, column in zip(self.cutoffs, values.T, strict=True)}

    def mean(self, values: np.ndarray, reached: np.ndarray) -> float:
        """The mean of values (Q,), by the rule for queries that have not `reached` a relevant item.

        Raises:
            SdcError: none has, and such queries are left out.
        """
        counted = values[reached] if self.no_hit == "skip" else values
        if not len(counted):
            raise SdcError("no query has a relevant item in its ranking, and such queries are skipped: nothing is left")
        return float(counted.mean())

    def _aps(self, limit: int, order: Order) -> np.ndarray:
        pairs = zip(self.sizes, self.hits, strict=True)
        return np.array(
            [average_precision_of_groups(sizes, hits, limit, order, self.denominator) for sizes, hits in pairs]
        )


class Column(NamedTuple):
    """A column of a table, and the keys that lead to its figure in the JSON of `sdc evaluate`."""

    name: str
    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """One figure of `sdc evaluate`.

    Attributes:
        score: from the rankings what the JSON has: a number, or numbers by cut-off.
        of: it is of the items' `relevance`, at each level of labels, or of the features' `neighbors`.
        column: its name in tables, where it stands in any, with {k} for a cut-off.
        title: of that column; `column` without.
    """

    score: Callable[[Rankings], Any]
    of: Literal["relevance", "neighbors"] = "relevance"
    column: str | None = None
    title: str | None = None

    def columns(self, key: str) -> Iterator[Column]:
        """The columns it has in tables, under this key of the JSON: one, one a cut-off, or none."""
        if self.column is None:
            return
        title = self.title or self.column
        if "{k}" not in self.column:
            yield Column(self.column, title, (key,))
            return
        for k in map(str, CUTOFFS):
            yield Column(self.column.format(k=k), title.format(k=k), (key, k))


METRICS: dict[str, Metric] = {
    "map": Metric(lambda of: of.mean(of.aps["ap"], of.reached), column="map", title="mAP"),
    "map_best": Metric(lambda of: of.mean(of.aps["ap_best"], of.reached)),
    "map_worst": Metric(lambda of: of.mean(of.aps["ap_worst"], of.reached)),
    "map_all": Metric(lambda of: of.mean(of.aps["ap_all"], of.aps["ap_all"] > 0)),
    "precision": Metric(lambda of: of.by_cutoff(of.precision_and_recall[0])),
    "recall": Metric(lambda of: of.by_cutoff(of.precision_and_recall[1])),
    "neighbor_recall": Metric(
        lambda of: {str(k): float(values.mean()) for k, values in of.overlaps.items()},
        of="neighbors",
        column="recall@{k}",
    ),
}


def table_columns() -> list[Column]:
    """The columns that tables have of all metrics."""
    return [column for key, metric in METRICS.items() for column in metric.columns(key)]


def scores(rankings: Rankings, of: Literal["relevance", "neighbors"]) -> dict[str, Any]:
    """All metrics of a kind, by their keys."""
    return {key: metric.score(rankings) for key, metric in METRICS.items() if metric.of == of}
