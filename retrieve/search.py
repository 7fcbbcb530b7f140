"""`sdc search`: the nearest codes of a db.bin to vectors, images, items of its own, or its query split.

Queries are compared by their codes, or in float, see `sdc.retrieve.rerank.float_search`. With `rerank` what the codes
find is put into a finer order, see `sdc.retrieve.rerank.scoring`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from sdc.errors import UsageError, did_you_mean, log
from sdc.retrieve.answer import Neighbors, build_answer, equal_neighbors, label_columns, ragged_neighbors, text_column
from sdc.retrieve.features import IndexFeatures
from sdc.retrieve.filters import matching_rows
from sdc.retrieve.index import Index
from sdc.retrieve.queries import Queries, QueryEncoder, first_queries
from sdc.retrieve.rerank import (
    QUERIES,
    FloatSearcher,
    Reranker,
    batches,
    choose_reading,
    features_and_outputs,
    open_features,
    own_features,
)
from sdc.retrieve.search_settings import SearchSettings


def search(settings: SearchSettings) -> dict[str, Any]:
    """Searches an index.

    Returns:
        The JSON of `sdc search`, see answer_schema.json: neighbors are ordered by (distance, row). Of queries in float
        there is also `float`, what was done, and each neighbor has a `score`: the order then is by (score descending,
        row). With rerank there is `rerank`, what was done, and each neighbor has a `similarity`, the features' cosine,
        or a `score`, where the features are not at hand: the order then is by (similarity or score descending, row).
        With a radius k is None, `radius` stands beside it, and each query has as many neighbors as there are.

    Raises:
        SdcError: a file is missing or damaged, or a query vector holds NaN or Inf.
        UsageError: k or limit < 1, a radius below 0, settings that do not fit together, an unknown id or label, vectors
            of another dimension than the model's, or a model other than the one that encoded the index.
    """
    settings.check()
    index = Index.open(settings.index, verify=settings.verify, nprobe=settings.nprobe)
    encoder = QueryEncoder(index, settings.model, settings.weights)
    parts = first_queries(_queries(settings, index, encoder), settings.limit)
    names = [name for part in parts for name in part.names]
    restricted = settings.only_ids is not None or settings.only_labels
    within = matching_rows(index.database, settings.only_ids, settings.only_labels) if restricted else None
    scan = _Scan(index, np.concatenate([part.codes for part in parts]), within)
    k = min(settings.k, index.ntotal if within is None else len(within))
    if settings.rerank is not None:
        finer: _Finer | None = _reranker(settings, index, encoder)
    else:
        finer = _float_search(settings, index, encoder, parts)
    if settings.explain:
        candidates = None if settings.radius is not None else finer.searcher.candidates if finer else k
        log.info("%s", index.explain(min(len(scan.codes), QUERIES), candidates, within=within))
    results: Iterator[Neighbors]
    if settings.radius is not None:
        results = scan.in_range(settings.radius)
    elif finer is None:
        results = scan.nearest(settings.k)
    else:
        results = scan.finer(
            finer.searcher, *features_and_outputs(parts, index, encoder.model, finer.store, finer.option)
        )
    done = {} if finer is None else {finer.done: finer.searcher.described()}
    return build_answer(str(settings.index), k, names, results, radius=settings.radius, **done)


class _Finer(NamedTuple):
    """What puts candidates into a finer order than their distances."""

    searcher: Reranker | FloatSearcher
    store: IndexFeatures | None  # of the queries that are items
    option: str  # which asks for it
    done: Literal["rerank", "in_float"]  # what `build_answer` calls what was done


@dataclass(frozen=True)
class _Scan:
    """The neighbors of each of some queries (Q, bits // 8) among all items, or those of `within`, batch by batch."""

    index: Index
    codes: np.ndarray
    within: np.ndarray | None

    def nearest(self, k: int) -> Iterator[Neighbors]:
        """The k nearest by Hamming distance."""
        for part in batches(len(self.codes), k):
            distances, positions = self.index.search_positions(self.codes[part], k, within=self.within)
            yield from self._equal(positions, {"distance": distances})

    def in_range(self, radius: int) -> Iterator[Neighbors]:
        """All within the radius."""
        for part in batches(len(self.codes), 1):
            limits, distances, rows = self.index.range_search(self.codes[part], radius, within=self.within)
            positions = self.index.items.positions(rows)[0]
            ids, columns = self._described(positions, {"distance": distances})
            yield from ragged_neighbors(ids, columns, limits.tolist())

    def finer(
        self, searcher: Reranker | FloatSearcher, features: np.ndarray, outputs: np.ndarray
    ) -> Iterator[Neighbors]:
        """The k nearest of queries with these features (Q, d) and outputs (Q, bits)."""
        for best in searcher.search(self.codes, features, outputs, self.within):
            yield from self._equal(best.positions, {"distance": best.distances, searcher.measure: best.similarities})

    def _equal(self, positions: np.ndarray, columns: dict[str, np.ndarray]) -> list[Neighbors]:
        ids, described = self._described(positions.ravel(), {name: column.ravel() for name, column in columns.items()})
        return equal_neighbors(ids, {name: column.reshape(positions.shape) for name, column in described.items()})

    def _described(
        self, positions: np.ndarray, columns: dict[str, np.ndarray]
    ) -> tuple[list[str], dict[str, np.ndarray]]:
        """Ids of items (n,), and their rows, these columns, their labels, classes and texts."""
        items = self.index.items
        labels, texts = label_columns(items.labels(positions), items.classes), text_column(items.texts(positions))
        return items.names(positions), {"row": items.rows(positions), **columns, **labels, **texts}


def _queries(settings: SearchSettings, index: Index, encoder: QueryEncoder) -> list[Queries]:
    """The queries, in the order vectors, images, ids."""
    parts = []
    if settings.queries is not None:
        parts.append(encoder.from_file(settings.queries, settings.limit))
    if settings.images:
        parts.append(encoder.from_images(settings.images, settings.limit))
    if settings.ids:
        codes, rows = zip(*(_item(name, index) for name in settings.ids), strict=True)
        parts.append(Queries(list(settings.ids), np.stack(codes), np.array(rows)))
    if parts:
        return parts
    if index.queries is None:
        raise UsageError(
            f"{settings.index} has no query split: give queries with --queries FILE, --image FILE or --id ID"
        )
    if settings.limit is not None and settings.limit < len(index.queries):
        log.info(
            "the first %d of %d queries of the query split: --limit takes more", settings.limit, len(index.queries)
        )
    return [Queries(index.queries.names(), index.queries.codes, index.queries.rows)]


def _item(name: str, index: Index) -> tuple[np.ndarray, int]:
    """The code and the row of an item of the index."""
    row = index.find(name)
    if row is not None:
        return index.codes(np.array([row]))[0], row
    if index.queries is not None and (position := index.queries.find(name)) >= 0:
        return index.queries.codes[position], int(index.queries.rows[position])
    parts = [part for part in (index.items, index.queries) if part is not None]
    near = [candidate for part in parts for candidate in part.nearest(name)]
    question = did_you_mean(name, near[:1]).strip()
    hint = question or f"its ids look like {index.items.names(np.arange(1))[0]!r}"
    raise UsageError(f"unknown id {name!r}: neither database nor query split of {index.path} has it; {hint}")


def _reranker(settings: SearchSettings, index: Index, encoder: QueryEncoder) -> _Finer:
    assert settings.rerank is not None
    store = open_features(index, encoder.model, settings.features, settings.precision, needed=settings.rerank == "auto")
    reranker = Reranker.open(
        index, encoder.model, min(settings.k, index.ntotal), settings.rerank,
        recall=settings.recall, features=store, verify=settings.verify,
    )  # fmt: skip
    return _Finer(reranker, store, "--rerank", "rerank")


def _float_search(settings: SearchSettings, index: Index, encoder: QueryEncoder, parts: list[Queries]) -> _Finer | None:
    """What searches in float; None where queries are compared by their codes."""
    tables, store, missing = index.items.stored.lengths is not None, None, None
    by_rule = settings.query is None and settings.features is None
    if settings.radius is None and settings.query != "code" and (tables or not by_rule):  # else nothing reads them
        store, missing = own_features(index, settings.features, needed=settings.query is not None)
    reading, why = choose_reading(
        settings.query,
        radius=settings.radius is not None,
        tables=tables,
        items=any(part.features is None for part in parts),
        missing=missing,
    )
    if reading == "code":
        if settings.recall is not None:
            raise UsageError(
                "--recall says what --rerank auto or --query float has to reach: give it with that (these queries are "
                f"compared by their codes: {why})"
            )
        if settings.explain:
            log.info("queries are compared by their codes: %s", why)
        return None
    searcher = FloatSearcher.open(
        index, encoder.model, min(settings.k, index.ntotal), recall=settings.recall, features=store
    )
    if settings.explain:
        log.info("queries are compared in float: %s; %s", why, searcher.explain())
    return _Finer(searcher, store, "--query float", "in_float")
