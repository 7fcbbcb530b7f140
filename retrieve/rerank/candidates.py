"""How many candidates a query in float scores: as few as find the share asked for of what scoring every code finds.

Measured and remembered as `--rerank auto` does it, see `sdc.retrieve.rerank.shortlist`; but it takes the features of
the sample's queries alone.
"""

from __future__ import annotations

import math

import numpy as np

from sdc.errors import log
from sdc.progress import Progress
from sdc.retrieve.features import Features
from sdc.retrieve.index import EncodedIndex, Records, own_positions
from sdc.retrieve.origin import is_refined
from sdc.retrieve.rerank.choices import ShortlistChoice
from sdc.retrieve.rerank.float_search import float_search
from sdc.retrieve.rerank.scoring import batches
from sdc.retrieve.rerank.shortlist import RECALL, check_recall, choice_of, sample_of_queries
from sdc.train import Model

BY_CODES = "codes"  # what the choice is for, beside the features of `--rerank auto`
_SCORED = 1 << 31  # codes of all queries of the sample, at most: 10 s
_LEAST = 200  # queries of the sample even then
_BATCH = 20  # queries scored between two steps of the progress
_WIDER = 8  # times as many candidates are looked at as are tried, so that the next ones are known
_ROOTS = 2.0  # where nothing can be measured: of k times the items; .5 to 1.1 held .95 on three sets of 1000 to 39,000


def unmeasured(k: int, items: int) -> int:
    """How many candidates are scored where there are no features to measure with."""
    return min(items, math.ceil(_ROOTS * math.sqrt(k * items)))


def choose_candidates(
    index: EncodedIndex, model: Model, store: Features, k: int, recall: float = RECALL
) -> ShortlistChoice:
    """Measures how many candidates it takes; arguments and result are those of `sdc.retrieve.rerank.shortlist.choose`.

    The recall is the mean share of the k best of all items that are among the candidates.
    """
    check_recall(recall)
    if k >= index.ntotal - 1:
        return ShortlistChoice(k, recall, index.ntotal, 1.0, 0.0, 0, "database", index.search_options, by=BY_CODES)
    queries, of = sample_of_queries(index, max(_LEAST, _SCORED // index.ntotal))
    sample = _Sample(index, model, queries, store.take(queries.rows), k)
    return choice_of(sample, recall, of, by=BY_CODES)


class _Sample:
    """Queries with the k best of all items.

    Attributes:
        own: (Q,) the position of each query's own row in the database, or −1.
        best: (Q, k) positions of its best items, itself left out.
    """

    def __init__(self, index: EncodedIndex, model: Model, queries: Records, features: np.ndarray, k: int) -> None:
        self.index, self.k = index, k
        # Not the codes that are stored: an item that stands in for a query has another code as a query.
        self.codes = model.encode(features, refine=is_refined(index), query=True)
        self.own = own_positions(queries.rows, index.database.rows)
        self.best = np.empty((len(queries), k), np.int64)
        with Progress("scores", len(queries) * index.ntotal, "codes") as progress:
            for start in range(0, len(queries), _BATCH):
                part = slice(start, start + _BATCH)
                some = np.asarray(features[part], np.float32)
                found = float_search(
                    index, model, some, k + 1, candidates=index.ntotal, codes=self.codes[part]
                ).positions
                other = found != self.own[part, None]
                other[other.all(axis=1), k] = False  # the query itself is not among them: the first k are they
                self.best[part] = found[other].reshape(-1, k)
                progress.advance(len(some) * index.ntotal)
        self._ranks, self._width = np.empty((len(queries), k)), 0

    def recalls(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(sizes, Q) which share of a query's k best is among so many candidates; twice, since nothing is lost then."""
        if self._width < min(self.index.ntotal, int(sizes[-1]) + 1):
            self._rank(min(self.index.ntotal, _WIDER * int(sizes[-1]) + 1))
        found = (self._ranks[None] < sizes[:, None, None]).mean(axis=2)
        return found, found

    def _rank(self, width: int) -> None:
        """Where the best items stand among the first `width` by distance, the query itself left out."""
        self._width = width
        for part in batches(len(self.codes), width):
            _, positions = self.index.search_positions(self.codes[part], width)
            for query, listed in enumerate(positions, part.start):
                others = listed[listed != self.own[query]]
                order = np.argsort(others)
                places = np.minimum(np.searchsorted(others, self.best[query], sorter=order), len(others) - 1)
                there = others[order[places]] == self.best[query]
                self._ranks[query] = np.where(there, order[places], np.inf)


def log_candidates(choice: ShortlistChoice, index: EncodedIndex) -> None:
    """Logs what a choice is and what it achieved."""
    if not choice.queries:
        log.info("--query float: with k = %d every code is scored", choice.k)
        return
    log.info(
        "--query float: %d candidates of %d items held %.3f ± %.3f of the %d best of all, for %d queries, each with a "
        "number that others chose (%s)",
        choice.shortlist, index.ntotal, choice.achieved, choice.error, choice.k, choice.queries,
        "of the query split" if choice.of == "query" else "of the database, themselves left out",
    )  # fmt: skip
    if choice.achieved < choice.recall:
        log.warning("that is below the %g asked for: a higher --recall leaves more room for chance", choice.recall)
