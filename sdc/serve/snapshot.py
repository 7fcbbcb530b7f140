"""An index and what answers with it: one generation of the service, never changed, replaced as a whole."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.retrieve import (
    Neighbors,
    Queries,
    build_answer,
    encode_queries,
    equal_neighbors,
    is_refined,
    label_columns,
    load_index_model,
    matching_rows,
    ragged_neighbors,
    text_column,
)
from sdc.retrieve.features import IndexFeatures, check_precision
from sdc.retrieve.index import IdLookup, Index, Records
from sdc.retrieve.rerank import RECALL, Reranker, ShortlistChoice, open_features
from sdc.serve.images import Embedder, embedder_of
from sdc.serve.limits import HTTPRefusal
from sdc.serve.request_parsing import How, Query
from sdc.serve.settings import MOST_COMPARED, ServeSettings
from sdc.train import Model

_CHOICES = 256  # shortlists of `auto` that are kept at hand


class NotMeasuredError(Exception):
    """What `auto` takes for this k and recall is to be measured first, by `FinerOrder.measure`."""

    def __init__(self, k: int, recall: float) -> None:
        super().__init__(k, recall)
        self.k, self.recall = k, recall


class FinerOrder:
    """What requests with `rerank` are answered with.

    Attributes:
        features: None where they are not at hand, so that the codes give the finer order.
    """

    def __init__(self, settings: ServeSettings, index: Index, model: Model | None) -> None:
        self._index, self._model, self._verify = index, model, settings.verify
        self.features = None if model is None else _features(settings, index, model)
        self._choices: dict[tuple[int, float], ShortlistChoice] = {}

    def reranker(self, how: How) -> Reranker | None:
        """What puts the nearest into the order that is asked for; None where it is Hamming's.

        Raises:
            HTTPRefusal: it cannot be done here.
            NotMeasuredError: see there.
        """
        if how.rerank is None or how.k is None:
            return None
        if self._model is None:
            raise HTTPRefusal(422, "rerank: the index records no model, so queries have no vectors to compare")
        k = min(how.k, self._index.ntotal)
        if how.rerank != "auto":
            return Reranker.open(self._index, self._model, k, how.rerank, features=self.features)
        if self.features is None:
            raise HTTPRefusal(422, "rerank: auto needs the features, which are not at hand here: give a number")
        recall = RECALL if how.recall is None else how.recall
        choice = self._choices.get((k, recall))
        if choice is None:
            raise NotMeasuredError(k, recall)
        return Reranker(self._index, self._model, self.features, k, choice.shortlist, choice)

    def measure(self, k: int, recall: float) -> None:
        """Measures which shortlist `auto` takes; it goes over all features, and is remembered beside the index.

        Raises:
            SdcError: the features are damaged, or a copy of them does not reach the recall.
        """
        assert self._model is not None
        if (k, recall) in self._choices:
            return
        reranker = Reranker.open(
            self._index, self._model, k, "auto", recall=recall, features=self.features, verify=self._verify
        )
        assert reranker.choice is not None
        if len(self._choices) >= _CHOICES:
            self._choices.clear()
        self._choices[k, recall] = reranker.choice


@dataclass(frozen=True)
class Snapshot:
    """What answers requests.

    Attributes:
        database: of the index; where it was changed, it is put together once, here.
        model: None where the index records none and none was named: only its own items can be searched then.
        parts: the database, then the query split, where the index has one.
        embedder: None where the features were imported.
        fingerprint: of the index.
        finer: the order of requests with `rerank`.
        generation: 1 at the start, one more with each index that was taken up.
    """

    settings: ServeSettings
    index: Index
    database: Records
    parts: tuple[IdLookup, ...]
    model: Model | None
    embedder: Embedder | None
    fingerprint: str
    finer: FinerOrder
    generation: int = 1

    @classmethod
    def open(cls, settings: ServeSettings, before: Snapshot | None = None) -> Snapshot:
        """Opens the index and its model.

        Args:
            before: what it is to replace; its backbone is kept where it is the same.

        Raises:
            SdcError: a file is missing, damaged, or does not belong to the others.
        """
        index = Index.open(settings.index, verify=settings.verify)
        model = None
        if index.metadata.get("model") or settings.model is not None:
            model = load_index_model(index, settings.model)
            if model.bits != index.bits:
                raise SdcError(f"{settings.index} has codes of {index.bits} bits, its model makes {model.bits}")
        else:
            log.warning("%s records no model: only its own items can be searched, by id", settings.index)
        parts = tuple(IdLookup(part) for part in (index.database, index.queries) if part is not None)
        _warm(index, model)
        generation = before.generation + 1 if before else 1
        embedder = None
        if model:
            provenance = index.metadata.get("features", {}).get("provenance", {})
            embedder = embedder_of(provenance, settings.weights, before.embedder if before else None)
        finer = FinerOrder(settings, index, model)
        return cls(settings, index, index.database, parts, model, embedder, index.fingerprint, finer, generation)

    def newer(self) -> Snapshot | None:
        """What is to replace it, where the index has changed; raises as `open`."""
        return None if self.index.current() else Snapshot.open(self.settings, self)

    def by_vectors(self, vectors: np.ndarray, how: How, names: list[str] | None = None) -> dict[str, Any]:
        """The neighbours of vectors (Q, d); a query without a name is called by its place.

        Raises:
            HTTPRefusal: the index knows no model, more lie within the radius than may be returned.
            SdcError: another dimension, NaN or Inf.
        """
        if self.model is None:
            raise HTTPRefusal(422, "the index records no model: search by an id of it")
        queries = encode_queries(vectors, self.model, "the vectors", refine=is_refined(self.index), names=names)
        return self._answer(queries, how)

    def by_id(self, name: str, how: How) -> dict[str, Any]:
        """The neighbours of an item of the database or the query split.

        Raises:
            HTTPRefusal: 404, it has no such item; and as `by_vectors`.
        """
        for part in self.parts:
            place = part.find(name)
            if place >= 0:
                records = part.records
                return self._answer(Queries([name], records.codes[place][None], records.rows[place][None]), how)
        raise HTTPRefusal(404, f"unknown id {name!r}: the index has no such item")

    def has(self, name: str) -> bool:
        """Whether an item of the database or the query split has this id."""
        return any(part.find(name) >= 0 for part in self.parts)

    def by_query(self, query: Query) -> dict[str, Any]:
        """The answer to what a JSON body asks for; raises as the others."""
        if query.vectors is None:
            assert query.id is not None
            return self.by_id(query.id, query.how)
        return self.by_vectors(query.vectors, query.how)

    def facts(self) -> dict[str, Any]:
        """What /healthz says of it."""
        shown = {
            "count": self.index.ntotal,
            "bits": self.index.bits,
            "fingerprint": self.fingerprint,
            "changes": self.index.generation,
        }
        pictures = self.embedder.state if self.embedder else "unavailable"
        return {
            "generation": self.generation,
            "index": shown,
            "queries": {"vectors": self.model.dimension if self.model else None, "images": pictures},
        }

    def examples(self, limit: int) -> list[dict[str, Any]]:
        """Some items of the database, drawn at random."""
        count = self.index.ntotal
        positions = np.array(random.sample(range(count), min(limit, count)), np.int64)
        return self._equal(positions[None], {})[0]

    def public(self, error: SdcError) -> str:
        """An error's message without the folders of this machine."""
        text, features = str(error), self.finer.features
        for path in (self.settings.index, None if features is None else features.path):
            text = text if path is None else text.replace(str(path), path.name)
        return text

    def _reranked(self, reranker: Reranker, queries: Queries, within: np.ndarray | None) -> Iterator[Neighbors]:
        """The neighbors of each query in the finer order."""
        compared = len(queries) * reranker.shortlist
        if compared > MOST_COMPARED:
            raise HTTPRefusal(
                422, f"rerank would compare {compared} features, expected at most {MOST_COMPARED} in one request: give "
                "a smaller factor, k or recall, or fewer vectors",
            )  # fmt: skip
        for best in reranker.search(queries.codes, *reranker.features_and_outputs([queries]), within):
            yield from self._equal(best.positions, {"distance": best.distances, reranker.measure: best.similarities})

    def _answer(self, queries: Queries, how: How) -> dict[str, Any]:
        """The JSON of `sdc search`, with labels where the index has them."""
        most = self.settings.max_k
        try:
            within = matching_rows(self.database, None, how.labels)
        except UsageError as error:
            raise HTTPRefusal(422, f"only_label: {error}") from None
        k = min(most + 1 if how.k is None else how.k, self.index.ntotal if within is None else len(within))
        reranker = self.finer.reranker(how)
        if reranker is not None:
            found = self._reranked(reranker, queries, within)
            return build_answer(self.settings.index.name, k, queries.names, found, rerank=reranker.described())
        # A radius is answered from the nearest: what it would find is not bounded, and so neither is its memory.
        distances, positions = self.index.search_positions(
            queries.codes, k, within=within, exact=how.radius is not None
        )
        if how.radius is None:
            neighbors = self._equal(positions, {"distance": distances})
        else:
            neighbors = self._inside(distances, positions, queries.names, how.radius)
        return build_answer(self.settings.index.name, k, queries.names, neighbors, radius=how.radius)

    def _inside(self, distances: np.ndarray, positions: np.ndarray, names: list[str], radius: int) -> list[Neighbors]:
        """Of each query those of its nearest (Q, k) that lie within the radius."""
        most, inside = self.settings.max_k, distances <= radius
        counts = inside.sum(axis=1)
        if (counts > most).any():
            name = names[int((counts > most).argmax())]
            raise HTTPRefusal(422, f"more than {most} lie within {radius} of {name!r}: choose a smaller radius")
        limits = [0, *np.cumsum(counts).tolist()]
        ids, columns = self._described(positions[inside], {"distance": distances[inside]})
        return ragged_neighbors(ids, columns, limits)

    def _equal(self, positions: np.ndarray, columns: dict[str, np.ndarray]) -> list[Neighbors]:
        """The JSON of neighbors (Q, k)."""
        ids, described = self._described(positions.ravel(), {name: column.ravel() for name, column in columns.items()})
        return equal_neighbors(ids, {name: column.reshape(positions.shape) for name, column in described.items()})

    def _described(
        self, positions: np.ndarray, columns: dict[str, np.ndarray]
    ) -> tuple[list[str], dict[str, np.ndarray]]:
        """Ids of items (n,), and their rows, these columns, their labels and the names of their classes."""
        database = self.database
        labels = None if database.labels is None else database.labels[positions]
        texts = text_column(None if database.texts is None else database.texts.take(positions))
        described = {"row": database.rows[positions], **columns, **label_columns(labels, database.classes), **texts}
        return database.names(positions), described


def _features(settings: ServeSettings, index: Index, model: Model) -> IndexFeatures | None:
    """The features for reranking. Others where they were recorded are no reason not to serve."""
    precision = check_precision(settings.precision)
    try:
        return open_features(index, model, settings.features, precision)
    except SdcError as error:
        if settings.features is not None:
            raise
        log.warning("searches with rerank are ordered by the codes alone: %s", error)
        return None


def _warm(index: Index, model: Model | None) -> None:
    """Imports, builds and reads what the first search would have to wait for."""
    index.search(np.zeros((1, index.bits // 8), np.uint8), 1)
    if model:
        encode_queries(np.zeros((1, model.dimension)), model, "zeros", refine=True)
