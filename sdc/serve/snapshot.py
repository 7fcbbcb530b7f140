"""An index and what answers with it: one generation of the service, never changed, replaced as a whole."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdc.errors import SdcError, log
from sdc.retrieve import (
    Neighbors,
    build_answer,
    encode_queries,
    equal_neighbors,
    is_refined,
    load_index_model,
    matching_rows,
    ragged_neighbors,
)
from sdc.retrieve.index import IdLookup, Index, Records
from sdc.serve.images import Embedder, origin_of
from sdc.serve.limits import HTTPRefusal
from sdc.serve.request_parsing import How, Query
from sdc.serve.settings import ServeSettings
from sdc.train import Model


@dataclass(frozen=True)
class Snapshot:
    """What answers requests.

    Attributes:
        database: of the index; where it was changed, it is put together once, here.
        model: None where the index records none and none was named: only its own items can be searched then.
        parts: the database, then the query split, where the index has one.
        embedder: None where the features were imported.
        fingerprint: of the index.
        generation: 1 at the start, one more with each index that was taken up.
    """

    settings: ServeSettings
    index: Index
    database: Records
    parts: tuple[IdLookup, ...]
    model: Model | None
    embedder: Embedder | None
    fingerprint: str
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
        embedder = _embedder(settings, index, before) if model else None
        return cls(settings, index, index.database, parts, model, embedder, index.fingerprint, generation)

    def by_vectors(self, vectors: np.ndarray, how: How, names: list[str] | None = None) -> dict[str, Any]:
        """The neighbours of vectors (Q, d); a query without a name is called by its place.

        Raises:
            HTTPRefusal: the index knows no model, more lie within the radius than may be returned.
            SdcError: another dimension, NaN or Inf.
        """
        if self.model is None:
            raise HTTPRefusal(422, "the index records no model: search by an id of it")
        names = names or [str(place) for place in range(len(vectors))]
        return self._answer(
            encode_queries(vectors, self.model, "the vectors", refine=is_refined(self.index)).codes, names, how
        )

    def by_id(self, name: str, how: How) -> dict[str, Any]:
        """The neighbours of an item of the database or the query split.

        Raises:
            HTTPRefusal: 404, it has no such item; and as `by_vectors`.
        """
        for part in self.parts:
            place = part.find(name)
            if place >= 0:
                return self._answer(part.records.codes[place][None], [name], how)
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
        return str(error).replace(str(self.settings.index), self.settings.index.name)

    def _answer(self, codes: np.ndarray, names: list[str], how: How) -> dict[str, Any]:
        """The JSON of `sdc search`, with labels where the index has them."""
        most = self.settings.max_k
        within = matching_rows(self.database, None, how.labels)
        k = min(most + 1 if how.k is None else how.k, self.index.ntotal if within is None else len(within))
        # A radius is answered from the nearest: what it would find is not bounded, and so neither is its memory.
        distances, positions = self.index.search_positions(codes, k, within=within, exact=how.radius is not None)
        if how.radius is None:
            neighbors = self._equal(positions, {"distance": distances})
        else:
            neighbors = self._inside(distances, positions, names, how.radius)
        return build_answer(self.settings.index.name, k, names, neighbors, radius=how.radius)

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
        """Ids of items (n,), and their rows, these columns and their labels: a number each or, multi-hot, a list."""
        database = self.database
        columns = {"row": database.rows[positions], **columns}
        if database.labels is not None:
            labels = database.labels[positions]
            if labels.ndim > 1:
                listed = np.empty(len(labels), object)
                for number, classes in enumerate(labels):
                    listed[number] = np.flatnonzero(classes).tolist()
                labels = listed
            columns["label"] = labels
        return database.names(positions), columns


def _warm(index: Index, model: Model | None) -> None:
    """Imports, builds and reads what the first search would have to wait for."""
    index.search(np.zeros((1, index.bits // 8), np.uint8), 1)
    if model:
        encode_queries(np.zeros((1, model.dimension)), model, "zeros", refine=True)


def _embedder(settings: ServeSettings, index: Index, before: Snapshot | None) -> Embedder | None:
    provenance = index.metadata.get("features", {}).get("provenance", {})
    if provenance.get("source") != "extract":
        return None
    kept = before.embedder if before else None
    if kept and kept.origin == origin_of(provenance) and kept.state != "unavailable":
        return kept
    return Embedder(provenance, settings.weights)
