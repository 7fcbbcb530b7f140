"""`sdc search`: the nearest codes of a db.bin to vectors, images, items of its own, or its query split.

With `rerank` a second stage puts what the codes find into a finer order, see `sdc.retrieve.rerank.scoring`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from sdc.errors import UsageError, log
from sdc.retrieve.filters import rows_of
from sdc.retrieve.index import Index
from sdc.retrieve.queries import Queries, model_of, of_images, of_vectors
from sdc.retrieve.rerank.reranker import SecondStage
from sdc.retrieve.rerank.reranker import check as check_rerank
from sdc.retrieve.search_settings import SearchSettings

_QUERIES = 1024  # searched at once
_CELLS = 1 << 20  # candidates for reranking held at once


def search(settings: SearchSettings) -> dict[str, Any]:
    """Searches an index.

    Returns:
        The JSON of `sdc search`: index, k (as clamped to the database) and results, a query and its neighbors
        (id, row of feats.h5, Hamming distance) each, ordered by (distance, row). With rerank also `rerank`, what was
        done, and each neighbour has a `similarity`, the features' cosine, or a `score`, the asymmetric one, where the
        features are not at hand; that order then is by (similarity or score descending, row). With a radius k is
        None, `radius` stands beside it, and each query has as many neighbours as there are.

    Raises:
        SdcError: a file is missing or damaged, or a query vector holds NaN or Inf.
        UsageError: k or limit < 1, a radius below 0 or with rerank, an unknown id or label, vectors of another
            dimension than the model's, or a model other than the one that encoded the index.
    """
    if settings.limit is not None and settings.limit < 1:
        raise UsageError(f"--limit must be at least 1, found {settings.limit}")
    if settings.k < 1:
        raise UsageError(f"k must be at least 1, found {settings.k}")
    check_rerank(settings.rerank, settings.recall)
    if settings.radius is not None and settings.rerank is not None:
        raise UsageError(
            "--radius lists all within a Hamming distance, --rerank orders the k nearest: give one of them"
        )
    index = Index.open(settings.index, verify=settings.verify, nprobe=settings.nprobe)
    parts = _queries(settings, index)
    names = [name for part in parts for name in part.names][: settings.limit]
    codes = np.concatenate([part.codes for part in parts])[: settings.limit]
    restricted = settings.only_ids is not None or settings.only_labels
    within = rows_of(index.database, settings.only_ids, settings.only_labels) if restricted else None
    k = min(settings.k, index.ntotal if within is None else len(within))
    answer: dict[str, Any] = {"index": str(settings.index), "k": k}
    stage = _second_stage(settings, index) if settings.rerank is not None else None
    if settings.explain:
        log.info("%s", index.explain(min(len(codes), _QUERIES), stage.candidates if stage else k, within=within))
    if settings.radius is not None:
        found = _in_range(index, codes, settings.radius, within)
        answer |= {"k": None, "radius": settings.radius}
    elif stage is None:
        found = _found(index, codes, settings.k, within)
    else:
        vectors = np.concatenate([part.features(stage) for part in parts])[: settings.limit]
        found, answer["rerank"] = _reranked(index, codes, vectors, stage, within), stage.described()
    return {**answer, "results": [{"query": name, "neighbors": near} for name, near in zip(names, found, strict=True)]}


def _found(index: Index, codes: np.ndarray, k: int, within: np.ndarray | None) -> Iterator[list[dict[str, Any]]]:
    """Of each query its neighbours by Hamming distance."""
    step = min(_QUERIES, max(1, _CELLS // k))
    for start in range(0, len(codes), step):
        distances, rows = index.search(codes[start : start + step], k, within=within)
        yield from neighbors(index, {"row": rows, "distance": distances})


def _in_range(
    index: Index, codes: np.ndarray, radius: int, within: np.ndarray | None
) -> Iterator[list[dict[str, Any]]]:
    """Of each query all within the radius."""
    for start in range(0, len(codes), _QUERIES):
        limits, distances, rows = index.range_search(codes[start : start + _QUERIES], radius, within=within)
        for first, last in pairwise(limits.tolist()):
            part = slice(first, last)
            yield from neighbors(index, {"row": rows[None, part], "distance": distances[None, part]})


def _reranked(
    index: Index, codes: np.ndarray, vectors: np.ndarray, stage: SecondStage, within: np.ndarray | None
) -> Iterator[list[dict[str, Any]]]:
    """Of each query its neighbours after the second stage."""
    step = min(_QUERIES, max(1, _CELLS // stage.candidates))
    for start in range(0, len(codes), step):
        part = slice(start, start + step)
        best = stage.refine(*index.search(codes[part], stage.candidates, within=within), vectors[part])
        yield from neighbors(index, {"row": best.rows, "distance": best.distances, stage.measure: best.similarities})


def neighbors(index: Index, found: dict[str, np.ndarray]) -> Iterator[list[dict[str, Any]]]:
    """The JSON of each query's neighbours, given (Q, k) arrays of what is said of them."""
    ids = iter(index.ids(found["row"].ravel()))
    for values in zip(*(array.tolist() for array in found.values()), strict=True):
        yield [{"id": next(ids), **dict(zip(found, each, strict=True))} for each in zip(*values, strict=True)]


def _queries(settings: SearchSettings, index: Index) -> list[Queries]:
    """The queries, in the order vectors, images, ids."""
    found = []
    if settings.queries is not None:
        found.append(of_vectors(settings, index))
    if settings.images:
        found.append(of_images(settings, index))
    if settings.ids:
        codes, rows = zip(*(_item(name, index) for name in settings.ids), strict=True)
        found.append(Queries(list(settings.ids), np.stack(codes), rows=np.array(rows)))
    if not found:
        if index.queries is None:
            raise UsageError(
                f"{settings.index} has no query split: give queries with --queries FILE, --image FILE or --id ID"
            )
        if settings.limit is not None and settings.limit < len(index.queries):
            log.info(
                "the first %d of %d queries of the query split: --limit takes more", settings.limit, len(index.queries)
            )
        found.append(Queries(index.queries.names(), index.queries.codes, rows=index.queries.rows))
    return found


def _item(name: str, index: Index) -> tuple[np.ndarray, int]:
    """The code and the row of an item of the index."""
    row = index.find(name)
    if row is not None:
        return index.codes(np.array([row]))[0], row
    if index.queries is not None and (place := index.queries.find(name)) >= 0:
        return index.queries.codes[place], int(index.queries.rows[place])
    parts = [part for part in (index.items, index.queries) if part is not None]
    near = [candidate for part in parts for candidate in part.nearest(name)]
    hint = f"did you mean {near[0]!r}?" if near else f"its ids look like {index.items.names(np.arange(1))[0]!r}"
    raise UsageError(f"unknown id {name!r}: neither database nor query split of {index.path} has it; {hint}")


def _second_stage(settings: SearchSettings, index: Index) -> SecondStage:
    assert settings.rerank is not None
    return SecondStage.of(
        index, model_of(index, settings.model), min(settings.k, index.ntotal), settings.rerank,
        recall=settings.recall, features=settings.features, verify=settings.verify,
    )  # fmt: skip
