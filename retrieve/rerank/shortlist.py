"""`--rerank auto`: the smallest shortlist that keeps the share asked for of the features' nearest neighbors.

Measured on the index's own query split (its own rows, where that has too few). What was achieved is reported of queries
that had no part in choosing, see `sdc.retrieve.cross_validation`. All that takes a pass over all features, so the
choice is remembered beside the index, in db.bin.rerank.json, for this index, k and recall; the file may be deleted at
any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sdc.arrays import evenly_spread
from sdc.errors import SdcError, UsageError, log
from sdc.retrieve.cross_validation import choose_and_validate, folds, query_part
from sdc.retrieve.features import Features, Nearest, nearest
from sdc.retrieve.index import EncodedIndex, Records, own_positions
from sdc.retrieve.origin import is_refined
from sdc.retrieve.rerank.choices import ShortlistChoice
from sdc.retrieve.rerank.scoring import WIDTH, batches, code_scores, cosines
from sdc.train import ByteTables, Model

RECALL = 0.95  # asked for by default
_QUERIES, _FEWEST = 1000, 100  # of the sample at most; of a query split that is used
# Standard errors by which the sample's recall must exceed what is asked for. On four sets of features, where .95 was
# asked for, further queries then had it in 99.5 % of runs and more, with shortlists 1.03 to 1.19 times the smallest for
# samples of 1000 queries, and 1.3 to 1.9 times for 100.
_MARGIN = 3.0
_STEPS = 16  # sizes tried from one to its double
_LARGE = 1000  # a shortlist above it that is more than a hundredth of the database is remarked on


def check_recall(recall: float) -> None:
    """Raises UsageError unless 0 < recall ≤ 1."""
    if not 0 < recall <= 1:
        raise UsageError(f"--recall must be above 0 and at most 1, found {recall:g}")


def choose(
    index: EncodedIndex,
    model: Model,
    store: Features,
    k: int,
    recall: float = RECALL,
    *,
    copy: Features | None = None,
    precision: str = "stored",
    near: list[Nearest] | None = None,
) -> ShortlistChoice:
    """Measures which shortlist it takes.

    The smallest one whose recall is above what is asked for by a margin of `_MARGIN` standard errors, to a sixteenth of
    an octave.

    Args:
        model: the one that encoded the index, as it did.
        store: the features it was encoded from.
        k: at most the size of the database.
        copy: the features in another precision, which a search compares in place of them, and
        precision: its name. What counts then is which of the nearest neighbors are among the k best of a shortlist.
        near: the k nearest of the index's query split, of 100 to 1000 queries, where somebody knows them already.

    Raises:
        SdcError: with the copy no shortlist reaches the recall.
    """
    check_recall(recall)
    if k >= index.ntotal - 1:
        return ShortlistChoice(k, recall, index.ntotal, 1.0, 0.0, 0, "database", index.search_options, precision)
    queries, of = sample_of_queries(index)
    return choice_of(_Sample.of(queries, index, model, store, k, copy, near), recall, of, precision=precision)


class Sample(Protocol):
    """Queries of an index, of which it is known what they should find: k items each."""

    @property
    def index(self) -> EncodedIndex: ...

    @property
    def codes(self) -> np.ndarray: ...

    @property
    def k(self) -> int: ...

    def recalls(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each of some ascending sizes (sizes, Q) which share of it is found, and (sizes, Q) which is listed."""


def sample_of_queries(index: EncodedIndex, most: int = _QUERIES) -> tuple[Records, str]:
    """At most so many evenly spread queries of an index, never more than `_QUERIES`, and where they are from."""
    part, of_split = query_part(index.database, index.queries, _FEWEST)
    return part.take(evenly_spread(len(part), min(most, _QUERIES))), "query" if of_split else "database"


def choice_of(
    sample: Sample, recall: float, of: str, *, precision: str = "stored", by: str = "features"
) -> ShortlistChoice:
    """The smallest size that suffices; `of`, `precision` and `by` are noted down."""
    sizes, recalls = _curve(sample, recall, precision)
    smallest, achieved = choose_and_validate(
        recalls.shape[1],
        lambda queries: _smallest(recalls[:, queries], recall),
        lambda number, others: recalls[number, others],
    )
    return ShortlistChoice(
        sample.k, recall, int(sizes[smallest]), float(achieved.mean()), _error(achieved), len(achieved),
        of, sample.index.search_options, precision, by,
    )  # fmt: skip


def _curve(sample: Sample, recall: float, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Ascending sizes and their recalls (sizes, Q), up to one that suffices whichever queries are left out."""
    size, sizes, recalls = sample.k, np.empty(0, np.int64), np.empty((0, len(sample.codes)))
    while True:  # ends: a shortlist of everything has recall 1, but for what a copy loses
        more = np.ceil(size * 2 ** (np.arange(_STEPS) / _STEPS))
        more = np.setdiff1d(np.minimum(more, sample.index.ntotal).astype(np.int64), sizes)
        further, listed = sample.recalls(more)
        sizes, recalls = np.concatenate([sizes, more]), np.concatenate([recalls, further])
        samples = [recalls, *(recalls[:, ~out] for out in folds(recalls.shape[1]))]
        if all(_smallest(each, recall) < len(recalls) for each in samples):
            return sizes, recalls
        lost = float((listed - further)[-1].mean())
        if sizes[-1] == sample.index.ntotal or (lost and lost > 1 - recall - _MARGIN * _error(further[-1])):
            raise SdcError(
                f"--rerank auto: {recall:g} of the {sample.k} nearest neighbors are asked for, with room for chance, "
                f"and comparing features in {precision} loses {lost:.3f} of them: take the features as they are "
                "stored, or a lower --recall"
            )
        size *= 2


def _smallest(recalls: np.ndarray, recall: float) -> int:
    """The number of the first size, of those with recalls (sizes, Q), that suffices; one beyond the last if none does.

    The margin goes by the standard error at the size that just reaches the recall. At larger ones it is smaller, in a
    small sample down to 0 where the few hard queries are not in it: that would be no margin.
    """
    means = recalls.mean(axis=1)
    reached = np.flatnonzero(means >= recall)
    if not len(reached):
        return len(recalls)
    enough = np.flatnonzero(means >= min(1.0, recall + _MARGIN * _error(recalls[reached[0]])))
    return int(enough[0]) if len(enough) else len(recalls)


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values)))


@dataclass(frozen=True)
class _Sample:
    """Queries with their nearest neighbors by the features' cosine.

    Attributes:
        codes: (Q, bits // 8) uint8, the queries'.
        own: (Q,) the position of each query's own row in the database, or −1.
        features: (Q, d), and
        outputs: (Q, bits), the model's of them.
        tables: the model's, if it has any.
        copy: what is compared in place of the features, if anything.
    """

    index: EncodedIndex
    codes: np.ndarray
    own: np.ndarray
    features: np.ndarray
    outputs: np.ndarray
    tables: ByteTables | None
    near: list[Nearest]
    k: int
    copy: Features | None

    @classmethod
    def of(
        cls, queries: Records, index: EncodedIndex, model: Model, store: Features, k: int, copy: Features | None,
        near: list[Nearest] | None,
    ) -> _Sample:  # fmt: skip
        own = own_positions(queries.rows, index.database.rows)
        near = near or nearest(store, queries.rows, index.database.rows, own, k)
        features, tables = store.take(queries.rows), None if model.tables is None else model.tables.decoder
        outputs = model.outputs(features)
        # Not the codes that are stored: an item that stands in for a query has another code as a query.
        codes = model.encode(features, refine=is_refined(index), query=True, outputs=outputs)
        return cls(index, codes, own, features, outputs, tables, near, k, copy)

    def recalls(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each of these ascending sizes (sizes, Q) which share of a query's k nearest a search finds, and

        (sizes, Q) which share is in the shortlist: the same, unless a copy is compared in place of the features.
        """
        width = min(self.index.ntotal, WIDTH * int(sizes[-1]) + 1)  # one of them may be the query's own row
        found, listed = np.empty((2, len(sizes), len(self.codes)))
        for part in batches(len(self.codes), width):
            _, positions = self.index.search_positions(self.codes[part], width)
            scores = code_scores(self.index, positions, self.outputs[part], self.tables, self.features[part])
            for q, (items, score) in enumerate(zip(positions, scores, strict=True), part.start):
                others = items != self.own[q]
                items, score = items[others], score[others]
                order = np.lexsort((items, -score))
                lists = [order[np.flatnonzero(order < WIDTH * size)[:size]] for size in sizes]
                found[:, q] = listed[:, q] = self._shares(q, items, lists)
                if self.copy is not None:
                    found[:, q] = self._shares(q, items, self._best(q, items, lists, self.copy))
        return found, listed

    def _shares(self, query: int, items: np.ndarray, lists: Sequence[np.ndarray]) -> np.ndarray:
        """Which share of a query's k nearest is in each list of places in `items`.

        What ties at the k-th rank is as good as the k-th.
        """
        near = self.near[query]
        tied = near.groups == len(near.sizes) - 1
        sure, maybe = (np.isin(items, near.items[which]) for which in (~tied, tied))
        free = self.k - int((~tied).sum())
        return np.array([int(sure[each].sum()) + min(free, int(maybe[each].sum())) for each in lists]) / self.k

    def _best(self, query: int, items: np.ndarray, lists: Sequence[np.ndarray], features: Features) -> list[np.ndarray]:
        """Of each list of places in `items` the k that are most similar to a query by these features."""
        compared = np.unique(np.concatenate(lists))
        similarities = np.full(len(items), -np.inf)
        similarities[compared] = cosines(self.features[query], features, self.index.items.rows(items[compared]))
        return [each[np.lexsort((items[each], -similarities[each]))[: self.k]] for each in lists]


def log_choice(choice: ShortlistChoice, index: EncodedIndex, store: Features) -> None:
    """Logs what a choice is, what it achieved, and what would do better where it is large."""
    size, share = choice.shortlist, choice.shortlist / index.ntotal
    if not choice.queries:
        log.info("--rerank auto: with k = %d everything is compared by its features", choice.k)
        return
    log.info(
        "--rerank auto: shortlists of %d of %d items (%.1f times k) held %.3f ± %.3f of the %d nearest by cosine, "
        "for %d queries, each with a size that others chose (%s)",
        size, index.ntotal, size / choice.k, choice.achieved, choice.error, choice.k, choice.queries,
        "of the query split" if choice.of == "query" else "of the database, themselves left out",
    )  # fmt: skip
    if choice.achieved < choice.recall:
        remedy = "a higher --recall leaves more room for chance" if choice.recall < 1 else "name a larger FACTOR"
        log.warning("that is below the %g asked for: %s", choice.recall, remedy)
    if size > _LARGE and share > 0.01:
        log.warning(
            "each query reads the features of %.1f %% of the database (%.1f MB), since codes of %d bits do not tell "
            "its neighbors apart: longer codes would do with far fewer, as would a lower --recall",
            100 * share, size * store.row_bytes / 1e6, index.bits,
        )  # fmt: skip
