"""What counts as relevant, and by which conventions a ranking is scored.

`category`: items that share a label. `relevant`: those listed for a query, as in Google Landmarks v2. `revisited`:
those listed as easy, hard and junk, as in revisited Oxford and Paris. Where nothing is known, `neighbors`: the recall
of the features' own neighbors alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdc.errors import UsageError, log, unknown_name_error
from sdc.retrieve.evaluate import landmark_metrics
from sdc.retrieve.evaluate.ranking_metrics import Denominator, average_precision_of_groups
from sdc.retrieve.evaluate.relevance import Relevance, by_groundtruth, by_labels, levels, unlabelled
from sdc.retrieve.index import Index, Records

CATEGORY, RELEVANT, REVISITED, NEIGHBORS = "category", "relevant", "revisited", "neighbors"
LISTS = {RELEVANT: ("relevant",), REVISITED: landmark_metrics.MARKS}  # of the ground truth, what each needs
PROTOCOLS = (CATEGORY, *LISTS)
DENOMINATORS: dict[Denominator, str] = {
    "found": "relevant items in the top R",
    "all": "all relevant items",
    "capped": "min(all relevant items, R)",
}
DEFAULT_DENOMINATOR: dict[str, Denominator] = {CATEGORY: "found", RELEVANT: "all"}
NO_HIT = {"zero": "counted as AP 0", "skip": "left out of the mean"}


@dataclass(frozen=True)
class Protocol:
    """One of `PROTOCOLS`, or `neighbors`, for the queries of an index.

    Attributes:
        at: R of mAP@R, at most the items a query is ranked against; of no meaning for `neighbors`.
        denominator: of AP@R; `all` in the revisited protocol.
        relevance: of the items, for each query.
        queries: those that are evaluated: by labels the ones that have a label.
    """

    name: str
    at: int
    denominator: Denominator
    relevance: Relevance
    queries: Records

    def score(self, sizes: np.ndarray, hits: Mapping[str, np.ndarray]) -> dict[str, float]:
        """A query's expected APs, by mark or by the settings of the revisited protocol.

        Args:
            sizes: (groups,) items in each group of ties, nearest first.
            hits: by mark, (groups,) those of them that have it.
        """
        if self.name == REVISITED:
            return {setting: float(values[0]) for setting, values in landmark_metrics.of_groups(sizes, hits).items()}
        return {
            mark: average_precision_of_groups(sizes, good, self.at, denominator=self.denominator)
            for mark, good in hits.items()
        }

    def conventions(self, no_hit: str) -> dict[str, str]:
        """What a reader has to know to compare the scores with others'."""
        own = "a query's own row"
        if self.name == REVISITED:
            return {
                "at": "the whole ranking",
                "ties": "by (distance, row); map_expected, mp_expected: mean over all orders; "
                "map_best, map_worst: best and worst order",
                "denominator": f"{DENOMINATORS[self.denominator]}, precision by trapezoids",
                "no_hit": "a query without positives is left out of the mean",
                "ignored": own
                + "".join(f"; {name}: {' and '.join(out)}" for name, (_, out) in landmark_metrics.SETTINGS.items()),
            }
        return {
            "at": f"the top {self.at}",
            "ties": "mean over all orders; map_best, map_worst: best and worst order",
            "denominator": DENOMINATORS[self.denominator],
            "no_hit": f"a query without a relevant item in the top R is {NO_HIT[no_hit]}",
            "ignored": own,
        }


def choose(
    index: Index, where: Path, ranked: int, asked: str | None, at: int | None, denominator: Denominator | None
) -> Protocol:
    """What was asked for, else what the features' provenance recommends, else `category`.

    Args:
        index: one with queries.
        where: its file, for messages.
        ranked: how many items a query is ranked against.
        asked, at, denominator: the protocol, R and the denominator, where the user named them.

    Raises:
        UsageError: an unknown protocol, one for which the index lacks labels or ground truth, or an `at` or
            `denominator` for a protocol that has its own.
        SdcError: the ground truth is not as it must be.
    """
    recorded = index.metadata.get("features", {}).get("provenance", {}).get("protocol") or {}
    name = asked or recorded.get("name") or CATEGORY
    if name not in PROTOCOLS:
        raise unknown_name_error("protocol", name, PROTOCOLS)
    queries, database = index.queries, index.database
    assert queries is not None
    if name == CATEGORY and not levels(queries, database) and asked is None:
        return Protocol(NEIGHBORS, 1, "found", by_labels(queries, database), queries)
    if name == CATEGORY and levels(queries, database):
        assert queries.labels is not None
        without = unlabelled(queries.labels)
        queries = queries.take(np.flatnonzero(~without)) if without.any() else queries
    relevance = _relevance(name, where, queries, database)
    if name == REVISITED:
        for option, value in (("at", at), ("denominator", denominator)):
            if value is not None:
                raise UsageError(f"the protocol revisited ranks the whole database, with its own AP: no --{option}")
        return Protocol(name, ranked, "all", relevance, queries)
    at = at or recorded.get("at", 1000) or ranked  # a recorded R of None means all
    if at > ranked:
        log.info("R = %d is clamped to the %d items a query is ranked against", at, ranked)
    return Protocol(name, min(at, ranked), denominator or DEFAULT_DENOMINATOR[name], relevance, queries)


def _relevance(name: str, where: Path, queries: Records, database: Records) -> Relevance:
    has = [
        *(["labels"] if levels(queries, database) else []),
        *(f"the ground truth {each}" for each in queries.groundtruth),
    ]
    lacking = [each for each in LISTS.get(name, ()) if each not in queries.groundtruth]
    if lacking or (name == CATEGORY and not levels(queries, database)):
        needs = f"the ground truth {', '.join(LISTS[name])}" if name in LISTS else "labels"
        fitting = [one for one, lists in LISTS.items() if {*lists} <= {*queries.groundtruth}]
        fitting += [CATEGORY] if levels(queries, database) else []
        hint = f"; --protocol {' or '.join(fitting)} would do" if fitting else ""
        raise UsageError(
            f"the protocol {name} needs {needs} of the queries, found {', '.join(has) or 'none'} in {where}{hint}"
        )
    return by_groundtruth(queries, database, LISTS[name]) if name in LISTS else by_labels(queries, database)


def check(protocol: str | None, denominator: str | None, no_hit: str) -> None:
    """Refuses unknown names before any file is read; raises UsageError."""
    for kind, name, known in (
        ("protocol", protocol, PROTOCOLS),
        ("denominator", denominator, tuple(DENOMINATORS)),
        ("rule for queries with no hit", no_hit, tuple(NO_HIT)),
    ):
        if name is not None and name not in known:
            raise unknown_name_error(kind, name, known)
