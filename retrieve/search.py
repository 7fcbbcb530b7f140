"""`sdc search`: the nearest codes of a db.bin to vectors, images, items of its own, or its query split.

With `rerank` a second stage puts what the codes find into a finer order, see `sdc.retrieve.rerank`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from sdc.artifacts import SdcError, UsageError, log
from sdc.retrieve.bits import pack
from sdc.retrieve.index import Index
from sdc.retrieve.restrict import rows_of
from sdc.retrieve.second_stage import Factor, SecondStage
from sdc.retrieve.second_stage import check as check_rerank
from sdc.train.model import Model

_QUERIES = 1024  # searched at once
_CELLS = 1 << 20  # candidates for reranking held at once


@dataclass(frozen=True)
class SearchSettings:
    """What `sdc search` does; the defaults are the command's. Without queries, images or ids: the query split.

    Attributes:
        index: a db.bin; or the URL of what `sdc push` made, for `sdc.retrieve.engines.search`.
        queries: a file of query vectors, of any format `sdc import` reads.
        images: image files, embedded by the backbone recorded with the features.
        ids: items of the database or the query split, by id.
        limit: at most so many queries; None takes all.
        k: neighbours a query; more than there are returns all.
        radius: everything within this Hamming distance, inclusive, instead of the k nearest.
        only_ids: a file with an id a line: search these alone.
        only_labels: search what has one of these labels alone.
        rerank: the factor that makes k the size of the shortlist whose features are compared, at least 1; `auto`
            measures which reaches `recall`. None leaves the order by Hamming distance.
        recall: of the k nearest by the features' cosine, for `auto`; None takes 0.95.
        features: the features the index was encoded from, for reranking; None takes the recorded path.
        model: the model that encoded the index; None takes the recorded path.
        weights: the backbone's weights for images, where they can't be had by their tag.
        nprobe: lists of an IVF index to scan; None takes what it was made with.
        explain: say how the search is carried out, and why.
        verify: check every byte of the index.
    """

    index: Path | str = Path("db.bin")
    queries: Path | None = None
    images: tuple[Path, ...] = ()
    ids: tuple[str, ...] = ()
    limit: int | None = None
    k: int = 10
    radius: int | None = None
    only_ids: Path | None = None
    only_labels: tuple[int, ...] = ()
    rerank: Factor | None = None
    recall: float | None = None
    features: Path | None = None
    model: Path | None = None
    weights: str | None = None
    nprobe: int | None = None
    explain: bool = False
    verify: bool = True


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


class Origin(Protocol):
    """What the model of queries is known by: an index, or another engine's copy of it."""

    @property
    def path(self) -> Path | str | None: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def vouched(self) -> bool: ...

    def recorded(self, what: Literal["model", "features"]) -> tuple[Path, str]: ...


class Queries(NamedTuple):
    """Some of the queries: vectors that were given, or items of the index."""

    names: list[str]
    codes: np.ndarray  # (Q, bits // 8)
    given: np.ndarray | None = None  # (Q, d)
    rows: np.ndarray | None = None  # (Q,) of feats.h5

    def features(self, stage: SecondStage) -> np.ndarray:
        """(Q, d) float32."""
        found = self.given if self.rows is None else stage.vectors(self.rows)
        return np.asarray(found, np.float32)


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


def of_vectors(settings: SearchSettings, index: Origin) -> Queries:
    """The queries of a file of vectors, encoded by the model of the index; see `codes_of` and `model_of`."""
    from sdc.extract.embeddings import read_vectors

    assert settings.queries is not None
    vectors, names = read_vectors(settings.queries)
    vectors = vectors[: settings.limit]
    return Queries(names[: settings.limit], _encode(settings, index, vectors, str(settings.queries)), vectors)


def of_images(settings: SearchSettings, index: Origin) -> Queries:
    """Images as queries, embedded by the backbone that is recorded with the features.

    Raises:
        UsageError: none is recorded.
    """
    from sdc.extract.encoder import features_of_images

    provenance = index.metadata.get("features", {}).get("provenance", {})
    if provenance.get("source") != "extract":
        raise UsageError(
            f"{settings.index} does not record a backbone ({provenance.get('source', 'plain FAISS')}): "
            "images can't be embedded for it; give their vectors with --queries"
        )
    paths = settings.images[: settings.limit]
    features = features_of_images(paths, provenance, settings.weights)
    return Queries([str(path) for path in paths], _encode(settings, index, features, "the images"), features)


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


def _encode(settings: SearchSettings, index: Origin, vectors: np.ndarray, origin: str) -> np.ndarray:
    return codes_of(vectors, model_of(index, settings.model), origin)


def codes_of(vectors: np.ndarray, model: Model, origin: str) -> np.ndarray:
    """The codes of query vectors, (Q, bits // 8) uint8.

    Args:
        vectors: (Q, d), any float type.
        origin: where they come from, for the errors.

    Raises:
        UsageError: they have another dimension than the model.
        SdcError: one holds NaN or Inf, or numbers too large for the model.
    """
    if vectors.ndim != 2 or vectors.shape[1] != model.dimension:
        raise UsageError(
            f"{origin}: found vectors of shape {vectors.shape}, the model of the index takes "
            f"{model.dimension} dimensions: use the features' backbone for queries too"
        )
    _check_finite(vectors, origin, "NaN or Inf", "remove or repair them")
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = model.outputs(vectors)
    _check_finite(outputs, origin, "numbers too large for the model", "scale them as the features were")
    return pack(outputs)


def _check_finite(values: np.ndarray, origin: str, found: str, remedy: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        listed = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise SdcError(f"{origin}: {len(bad)} vectors hold {found} (rows {listed}); {remedy}")


def _second_stage(settings: SearchSettings, index: Index) -> SecondStage:
    assert settings.rerank is not None
    return SecondStage.of(
        index, model_of(index, settings.model), min(settings.k, index.ntotal), settings.rerank,
        recall=settings.recall, features=settings.features, verify=settings.verify,
    )  # fmt: skip


def model_of(index: Origin, named: Path | None = None) -> Model:
    """The model that encoded the index; another one is refused, since its codes mean something else.

    Args:
        named: where it is; None takes the recorded path.

    Raises:
        SdcError: it is not there, or damaged.
        UsageError: the index records none and none is named, or it was another one.
    """
    if not index.vouched and named is not None:
        model = Model.load(named)
        log.warning("%s does not record its model: that %s encoded it is taken on trust", index.path, named)
        return model
    recorded, fingerprint = index.recorded("model")
    path = named or recorded
    if not path.exists() and named is None:
        raise SdcError(f"the model that encoded {index.path} is not at {path}: say where it is with --model")
    model = Model.load(path)
    if model.fingerprint != fingerprint:
        raise UsageError(
            f"{index.path} was encoded by the model {fingerprint}, but {path} is {model.fingerprint}: "
            "name the right one with --model, or encode again"
        )
    recentered = index.metadata["model"].get("recentered")
    return model if recentered is None else model.recentered(np.array(recentered["mean"], np.float32))
