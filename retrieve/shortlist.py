"""`--rerank auto`: the smallest shortlist that keeps a wanted share of the features' nearest neighbours.

Measured on the index's own query split (its own rows, where that has too few): one half of the queries chooses, the
other half reports what was achieved. That takes a pass over all features, so the choice is remembered beside the index,
in db.bin.rerank.json, which binds it to the index, k and the recall that was asked for; it may be deleted at any time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sdc.artifacts import SdcError, UsageError, fingerprint, log, replacing
from sdc.retrieve.entries import Entries, own_places
from sdc.retrieve.index import Index
from sdc.retrieve.nearest import nearest
from sdc.retrieve.neighbors import Nearest
from sdc.retrieve.rerank import WIDTH, asymmetric
from sdc.retrieve.sources import Features, encoded_features
from sdc.train.model import Model

RECALL = 0.95  # that is asked for unless said otherwise
_QUERIES, _FEWEST = 1000, 50  # of the sample at most; of a query split that is used
# Standard errors by which the choosing half's recall must exceed what is asked for. The other half errs as well: on
# image and text features 2.5 gave it the recall in 97 % of splits into halves, with shortlists 1.2 times the smallest.
_MARGIN = 2.5
_STEPS = 16  # sizes tried from one to its double
_CELLS = 1 << 20  # candidates held at once
_LARGE = 1000  # a shortlist above it that is more than a hundredth of the database is remarked on


@dataclass(frozen=True)
class Choice:
    """A shortlist for one k and recall, and what it achieved.

    Attributes:
        k: neighbours.
        recall: asked for: the mean share of the k nearest by the features' cosine that are in the shortlist.
        shortlist: how many items.
        achieved: the recall on the half of the queries that had no part in choosing.
        error: its standard error.
        queries: in that half; 0 where there was nothing to measure, since everything is in the shortlist.
        of: where they are from: the `query` split, or the `database` with their own rows left out.
        nprobe: lists that were scanned, of an index of type ivf.
    """

    k: int
    recall: float
    shortlist: int
    achieved: float
    error: float
    queries: int
    of: str
    nprobe: int | None = None


def check_recall(recall: float) -> None:
    """Raises UsageError unless 0 < recall ≤ 1."""
    if not 0 < recall <= 1:
        raise UsageError(f"--recall must be above 0 and at most 1, found {recall:g}")


def choose(index: Index, model: Model, store: Features, k: int, recall: float = RECALL) -> Choice:
    """Measures which shortlist it takes.

    The smallest one whose recall on the choosing half is above what is asked for by a margin of `_MARGIN` standard
    errors, to a sixteenth of an octave.

    Args:
        model: the one that encoded the index, as it did.
        store: the features it was encoded from.
        k: at most the size of the database.
    """
    check_recall(recall)
    if k >= index.ntotal - 1:
        return Choice(k, recall, index.ntotal, 1.0, 0.0, 0, "database", index.nprobe)
    split = index.queries is not None and len(index.queries) >= _FEWEST
    part = index.queries if split and index.queries is not None else index.database
    places = np.unique(np.linspace(0, len(part) - 1, min(len(part), _QUERIES)).astype(np.int64))
    tuning, held_out = (_Sample.of(part.take(chosen), index, model, store, k) for chosen in (places[::2], places[1::2]))
    size = _smallest(tuning, index.ntotal, k, recall)
    found = held_out.recalls(np.array([size]))[0]
    of = "query" if split else "database"
    return Choice(k, recall, size, float(found.mean()), _error(found), len(found), of, index.nprobe)


def _smallest(sample: _Sample, ntotal: int, k: int, recall: float) -> int:
    size = k
    while True:  # ends: a shortlist of everything has recall 1
        sizes = np.unique(np.minimum(np.ceil(size * 2 ** (np.arange(_STEPS) / _STEPS)), ntotal).astype(np.int64))
        found = sample.recalls(sizes)
        errors = np.array([_error(row) for row in found])
        enough = np.flatnonzero(found.mean(axis=1) - _MARGIN * errors >= recall)
        if len(enough):
            return int(sizes[enough[0]])
        size *= 2


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=min(1, len(values) - 1)) / np.sqrt(len(values)))


@dataclass(frozen=True)
class _Sample:
    """Queries with their nearest neighbours by the features' cosine."""

    index: Index
    queries: Entries
    outputs: np.ndarray
    near: list[Nearest]
    k: int

    @classmethod
    def of(cls, queries: Entries, index: Index, model: Model, store: Features, k: int) -> _Sample:
        own = own_places(queries.rows, index.database.rows)
        near = nearest(store, queries.rows, index.database.rows, own, k)
        return cls(index, queries, model.outputs(store.take(queries.rows)), near, k)

    def recalls(self, sizes: np.ndarray) -> np.ndarray:
        """(sizes, Q): which share of each query's k nearest a shortlist of each of these ascending sizes holds."""
        width = min(self.index.ntotal, WIDTH * int(sizes[-1]) + 1)  # one of them may be the query's own row
        found = np.empty((len(sizes), len(self.queries)))
        step = max(1, _CELLS // width)
        for start in range(0, len(self.queries), step):
            part = slice(start, start + step)
            _, rows = self.index.search(self.queries.codes[part], width)
            scores = asymmetric(self.index, rows, self.outputs[part])
            for place, (row, score) in enumerate(zip(rows, scores, strict=True), start):
                others = row != self.queries.rows[place]
                found[:, place] = self._held(self.near[place], row[others], score[others], sizes)
        return found

    def _held(self, near: Nearest, rows: np.ndarray, scores: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Of one query, given its candidates in Hamming's order. What ties at the k-th place is as good as the k-th."""
        order = np.lexsort((rows, -scores))
        wanted = self.index.database.rows[near.items]
        tied = near.groups == len(near.sizes) - 1
        sure, maybe = (np.isin(rows[order], wanted[which]) for which in (~tied, tied))
        free = self.k - int((~tied).sum())
        hits = []
        for size in sizes:
            kept = np.flatnonzero(order < WIDTH * size)[:size]
            hits.append(int(sure[kept].sum()) + min(free, int(maybe[kept].sum())))
        return np.array(hits) / self.k


def tuned(index: Index, model: Model, features: Path | None, k: int, recall: float, *, verify: bool = True) -> Choice:
    """The choice that is remembered beside the index, or else a new one, which is remembered then.

    Args:
        features: where the features are; None takes the recorded path.
        verify: check every byte of the features before they are measured with.
    """
    check_recall(recall)
    path = None if index.path is None else index.path.with_name(f"{index.path.name}.rerank.json")
    known = [] if path is None else _remembered(path, index)
    for choice in known:
        if (choice.k, choice.recall, choice.nprobe) == (k, recall, index.nprobe):
            return choice
    choice = choose(index, model, encoded_features(index, features, verify=verify), k, recall)
    if path is not None:
        try:
            _remember(path, index, [*known, choice])
        except SdcError as error:
            log.warning("what --rerank auto has measured is not remembered: %s", error)
    return choice


def _remembered(path: Path, index: Index) -> list[Choice]:
    """The choices of this very index; none where the file is of another one, or damaged."""
    try:
        held = json.loads(path.read_bytes())
        if held.pop("checksum") != fingerprint(held):
            raise ValueError("its checksum does not fit")
        return [Choice(**choice) for choice in held["choices"]] if held["index"] == index.fingerprint else []
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s cannot be read (%s): measuring anew", path, error)
        return []


def _remember(path: Path, index: Index, choices: Sequence[Choice]) -> None:
    held = {"index": index.fingerprint, "choices": [asdict(choice) for choice in choices]}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**held, "checksum": fingerprint(held)}, indent=1))


def say(choice: Choice, index: Index, store: Features) -> None:
    """Logs what a choice is, what it achieved, and what would do better where it is large."""
    size, share = choice.shortlist, choice.shortlist / index.ntotal
    if not choice.queries:
        log.info("--rerank auto: with k = %d everything is compared by its features", choice.k)
        return
    log.info(
        "--rerank auto: shortlists of %d of %d items (%.1f times k) held %.3f ± %.3f of the %d nearest by cosine, "
        "for %d queries that had no part in choosing (%s)",
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
            "its neighbours apart: longer codes would do with far fewer, as would a lower --recall",
            100 * share, size * row / 1e6, index.bits,
        )  # fmt: skip
