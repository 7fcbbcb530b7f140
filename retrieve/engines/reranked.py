"""`sdc search --rerank` in another engine: candidates and their codes come from there, features are compared here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import UsageError
from sdc.retrieve.engines.base import Hits
from sdc.retrieve.features import IndexFeatures, check_precision, pushed_features
from sdc.retrieve.index import Index
from sdc.retrieve.origin import Origin
from sdc.retrieve.queries import Queries, check_codes
from sdc.retrieve.rerank import (
    WIDTH,
    Reranker,
    batches,
    facts_of,
    features_and_outputs,
    log_missing,
    shortlist_size,
)
from sdc.retrieve.search_settings import SearchSettings
from sdc.train import Model

_SAMPLE = 256  # candidates of the first query whose codes must be those of their features

Find = Callable[[np.ndarray, int], list[Hits]]


class PushedReranker:
    """Reranks what an engine finds.

    Args:
        origin: what was pushed.
        model: the one that encoded it.
        k: from 1 to `count`.
        count: codes there, and
        most: that it returns.

    Raises:
        UsageError: a shortlist of more than the engine returns, or other features than were encoded.
        SdcError: the features were named, and are missing or damaged.
    """

    def __init__(self, settings: SearchSettings, origin: Origin, model: Model, k: int, count: int, most: int) -> None:
        assert settings.rerank is not None
        assert settings.rerank != "auto"
        self._origin, self._model, self._k = origin, model, k
        self.shortlist = shortlist_size(k, settings.rerank, count)
        if self.shortlist > most:
            raise UsageError(
                f"--rerank {settings.rerank:g} takes {self.shortlist} items for -k {k}, and {origin.path} returns "
                f"{most} at most: take a smaller one"
            )
        self.candidates = min(count, WIDTH * self.shortlist, most)
        self._store = _features(settings, origin, model)
        self._checked = self._store is None

    @property
    def measure(self) -> str:
        """What the order goes by, under its name in the JSON."""
        return "score" if self._store is None else "similarity"

    def search(self, find: Find, parts: list[Queries]) -> Iterator[tuple[Hits, np.ndarray]]:
        """Of each query its neighbors, best first, and their similarities or scores.

        Args:
            find: what gives the nearest of some codes, so many of each, with their codes.
        """
        codes = np.concatenate([part.codes for part in parts])
        features, outputs = features_and_outputs(parts, self._origin, self._model, self._store, "--rerank")
        for part in batches(len(codes), self.candidates):
            for query, hits in zip(range(part.start, part.stop), find(codes[part], self.candidates), strict=False):
                yield self._best(hits, features[query : query + 1], outputs[query : query + 1])

    def described(self) -> dict[str, Any]:
        """What was done, for the JSON."""
        return facts_of(self.candidates, self._model.bits, self._store, self.shortlist)

    def _best(self, hits: Hits, features: np.ndarray, outputs: np.ndarray) -> tuple[Hits, np.ndarray]:
        assert hits.codes is not None
        if not len(hits.rows):
            return hits, np.empty(0)
        self._check(hits)
        index = Index.build(hits.codes, rows=hits.rows)
        positions, _ = index.items.positions(hits.rows)
        reranker = Reranker(index, self._model, self._store, self._k, self.shortlist)
        best = reranker.rerank(hits.distances[None], positions[None], features, outputs)
        places = np.argsort(positions)  # of the items in `hits`, by position
        return hits.take(places[best.positions[0]]), best.similarities[0]

    def _check(self, hits: Hits) -> None:
        """Once: that rows there are rows of the features. What was pushed by an older sdc may lack some sources."""
        if not self._checked and self._store is not None and hits.codes is not None:
            rows = hits.rows[:_SAMPLE]
            found = self._store.original.take(rows)
            check_codes(found, hits.codes[:_SAMPLE], self._model, self._origin)
            self._checked = True


def _features(settings: SearchSettings, origin: Origin, model: Model) -> IndexFeatures | None:
    """Those that were encoded; None, which is logged, where they are not at hand."""
    if settings.features is None:
        recorded = [origin.metadata.get("features") or {}, *origin.metadata.get("sources", [])]
        missing = [f"at {each['path']}" if each else "recorded" for each in recorded if not _there(each)]
        if missing:
            log_missing(missing[0], model)
            return None
    store = pushed_features(origin, settings.features, check_precision(settings.precision))
    store.read_at_random()
    return store


def _there(source: Mapping[str, Any]) -> bool:
    return bool(source) and Path(source["path"]).exists()
