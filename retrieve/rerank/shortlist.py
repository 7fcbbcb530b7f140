"""`--rerank auto`: the smallest shortlist that keeps the share asked for of the features' nearest neighbors.

Measured on the index's own query split (its own rows, where that has too few). What was achieved is reported of queries
that had no part in choosing, see `sdc.retrieve.cross_validation`. All that takes a pass over all features, so the
choice is remembered beside the index, in db.bin.rerank.json, for this index, k and recall; the file may be deleted at
any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.files import atomic_write, seal, unseal
from sdc.retrieve.cross_validation import choose_and_validate, folds, query_part
from sdc.retrieve.features import Features, Nearest, nearest
from sdc.retrieve.index import EncodedIndex, Records, own_positions
from sdc.retrieve.rerank.scoring import WIDTH, code_scores
from sdc.train import ByteTables, Model

RECALL = 0.95  # asked for by default
_QUERIES, _FEWEST = 1000, 100  # of the sample at most; of a query split that is used
# Standard errors by which the sample's recall must exceed what is asked for. On four sets of features, where .95 was
# asked for, further queries then had it in 99.5 % of runs and more, with shortlists 1.03 to 1.19 times the smallest for
# samples of 1000 queries, and 1.3 to 1.9 times for 100.
_MARGIN = 3.0
_STEPS = 16  # sizes tried from one to its double
_CELLS = 1 << 20  # candidates in memory at once
_LARGE = 1000  # a shortlist above it that is more than a hundredth of the database is remarked on


@dataclass(frozen=True)
class ShortlistChoice:
    """A shortlist for one k and recall, and what it achieved.

    Attributes:
        k: neighbors.
        recall: asked for: the mean share of the k nearest by the features' cosine that are in the shortlist.
        shortlist: how many items.
        achieved: the recall of queries by shortlists that others chose, in ten turns.
        error: its standard error.
        queries: how many; 0 where there was nothing to measure, since everything is in the shortlist.
        of: where they are from: the `query` split, or the `database` with their own rows left out.
        search_options: those of the index, such as nprobe of type ivf: with others it would achieve something else.
    """

    k: int
    recall: float
    shortlist: int
    achieved: float
    error: float
    queries: int
    of: str
    search_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ShortlistChoice:
        names = cls.__dataclass_fields__.keys() - {"search_options"}
        options = {name: value for name, value in fields.items() if name not in names and value is not None}
        return cls(**{name: fields[name] for name in names}, search_options=options)

    def to_json(self) -> dict[str, Any]:
        """As JSON: the search options stand among the fields, nprobe in any case, as it always has."""
        fields = asdict(self)
        options = fields.pop("search_options")
        return {**fields, "nprobe": None, **options}


def check_recall(recall: float) -> None:
    """Raises UsageError unless 0 < recall ≤ 1."""
    if not 0 < recall <= 1:
        raise UsageError(f"--recall must be above 0 and at most 1, found {recall:g}")


def choose(index: EncodedIndex, model: Model, store: Features, k: int, recall: float = RECALL) -> ShortlistChoice:
    """Measures which shortlist it takes.

    The smallest one whose recall is above what is asked for by a margin of `_MARGIN` standard errors, to a sixteenth of
    an octave.

    Args:
        model: the one that encoded the index, as it did.
        store: the features it was encoded from.
        k: at most the size of the database.
    """
    check_recall(recall)
    if k >= index.ntotal - 1:
        return ShortlistChoice(k, recall, index.ntotal, 1.0, 0.0, 0, "database", index.search_options)
    part, of_split = query_part(index.database, index.queries, _FEWEST)
    positions = np.unique(np.linspace(0, len(part) - 1, min(len(part), _QUERIES)).astype(np.int64))
    sample = _Sample.of(part.take(positions), index, model, store, k)
    sizes, recalls = _curve(sample, recall)
    smallest, achieved = choose_and_validate(
        len(positions),
        lambda queries: _smallest(recalls[:, queries], recall),
        lambda number, others: recalls[number, others],
    )
    return ShortlistChoice(
        k, recall, int(sizes[smallest]), float(achieved.mean()), _error(achieved), len(achieved),
        "query" if of_split else "database", index.search_options,
    )  # fmt: skip


def _curve(sample: _Sample, recall: float) -> tuple[np.ndarray, np.ndarray]:
    """Ascending sizes and their recalls (sizes, Q), up to one that suffices whichever queries are left out."""
    size, sizes, recalls = sample.k, np.empty(0, np.int64), np.empty((0, len(sample.queries)))
    while True:  # ends: a shortlist of everything has recall 1
        more = np.ceil(size * 2 ** (np.arange(_STEPS) / _STEPS))
        more = np.setdiff1d(np.minimum(more, sample.index.ntotal).astype(np.int64), sizes)
        sizes, recalls = np.concatenate([sizes, more]), np.concatenate([recalls, sample.recalls(more)])
        samples = [recalls, *(recalls[:, ~out] for out in folds(recalls.shape[1]))]
        if all(_smallest(each, recall) < len(recalls) for each in samples):
            return sizes, recalls
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
        own: (Q,) the position of each query's own row in the database, or −1.
        features: (Q, d), and
        outputs: (Q, bits), the model's of them.
        tables: the model's, if it has any.
    """

    index: EncodedIndex
    queries: Records
    own: np.ndarray
    features: np.ndarray
    outputs: np.ndarray
    tables: ByteTables | None
    near: list[Nearest]
    k: int

    @classmethod
    def of(cls, queries: Records, index: EncodedIndex, model: Model, store: Features, k: int) -> _Sample:
        own = own_positions(queries.rows, index.database.rows)
        near = nearest(store, queries.rows, index.database.rows, own, k)
        features, tables = store.take(queries.rows), None if model.tables is None else model.tables.decoder
        return cls(index, queries, own, features, model.outputs(features), tables, near, k)

    def recalls(self, sizes: np.ndarray) -> np.ndarray:
        """(sizes, Q): which share of each query's k nearest is in a shortlist of each of these ascending sizes."""
        width = min(self.index.ntotal, WIDTH * int(sizes[-1]) + 1)  # one of them may be the query's own row
        recalls = np.empty((len(sizes), len(self.queries)))
        step = max(1, _CELLS // width)
        for start in range(0, len(self.queries), step):
            part = slice(start, start + step)
            _, positions = self.index.search_positions(self.queries.codes[part], width)
            scores = code_scores(self.index, positions, self.outputs[part], self.tables, self.features[part])
            for q, (items, score) in enumerate(zip(positions, scores, strict=True), start):
                others = items != self.own[q]
                recalls[:, q] = self._recalls_of(self.near[q], items[others], score[others], sizes)
        return recalls

    def _recalls_of(self, near: Nearest, positions: np.ndarray, scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Of one query, by its candidates in Hamming's order. What ties at the k-th rank is as good as the k-th."""
        order = np.lexsort((positions, -scores))
        tied = near.groups == len(near.sizes) - 1
        sure, maybe = (np.isin(positions[order], near.items[which]) for which in (~tied, tied))
        free = self.k - int((~tied).sum())
        hits = []
        for size in sizes:
            listed = np.flatnonzero(order < WIDTH * size)[:size]
            hits.append(int(sure[listed].sum()) + min(free, int(maybe[listed].sum())))
        return np.array(hits) / self.k


class RememberedChoices:
    """The choices that are remembered beside an index; none where the file is of another index, or damaged."""

    def __init__(self, index: EncodedIndex) -> None:
        self._index = index
        self._path = None if index.path is None else index.path.with_name(f"{index.path.name}.rerank.json")
        self._choices = [] if self._path is None else _read(self._path, index)

    def find(self, k: int, recall: float) -> ShortlistChoice | None:
        """The choice for this k and recall and the search options of the index; None where there is none."""
        asked = (k, recall, self._index.search_options)
        return next((each for each in self._choices if (each.k, each.recall, each.search_options) == asked), None)

    def add(self, choice: ShortlistChoice) -> None:
        """Remembers one more; logs a warning where it cannot be written."""
        if self._path is None:
            return
        content = {"index": self._index.fingerprint, "choices": [each.to_json() for each in (*self._choices, choice)]}
        try:
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps(seal(content), indent=1))
        except SdcError as error:
            log.warning("what --rerank auto has measured is not remembered: %s", error)


def _read(path: Path, index: EncodedIndex) -> list[ShortlistChoice]:
    try:
        content = unseal(json.loads(path.read_bytes()))
        same = content["index"] == index.fingerprint
        return [ShortlistChoice.from_json(choice) for choice in content["choices"]] if same else []
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s cannot be read (%s): measuring anew", path, error)
        return []


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
        row = store.take(np.zeros(1, np.int64)).nbytes
        log.warning(
            "each query reads the features of %.1f %% of the database (%.1f MB), since codes of %d bits do not tell "
            "its neighbors apart: longer codes would do with far fewer, as would a lower --recall",
            100 * share, size * row / 1e6, index.bits,
        )  # fmt: skip
