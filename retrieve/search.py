"""`sdc search`: the nearest codes of a db.bin to vectors, images, items of its own, or its query split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.artifacts import SdcError, UsageError, log
from sdc.retrieve.bits import pack
from sdc.retrieve.index import Index
from sdc.train.model import Model

_QUERIES = 1024  # searched at once


@dataclass(frozen=True)
class SearchSettings:
    """What `sdc search` does; the defaults are the command's. Without queries, images or ids: the query split.

    Attributes:
        index: a db.bin.
        queries: a file of query vectors, of any format `sdc import` reads.
        images: image files, embedded by the backbone recorded with the features.
        ids: items of the database or the query split, by id.
        limit: at most so many queries; None takes all.
        k: neighbours a query; more than there are returns all.
        model: the model that encoded the index; None takes the recorded path.
        weights: the backbone's weights for images, where they can't be had by their tag.
        verify: check every byte of the index.
    """

    index: Path = Path("db.bin")
    queries: Path | None = None
    images: tuple[Path, ...] = ()
    ids: tuple[str, ...] = ()
    limit: int | None = None
    k: int = 10
    model: Path | None = None
    weights: str | None = None
    verify: bool = True


def search(settings: SearchSettings) -> dict[str, Any]:
    """Searches an index.

    Returns:
        The JSON of `sdc search`: index, k (as clamped to the database) and results, a query and its neighbors
        (id, row of feats.h5, Hamming distance) each, ordered by (distance, row).

    Raises:
        SdcError: a file is missing or damaged, or a query vector holds NaN or Inf.
        UsageError: k or limit < 1, an unknown id, vectors of another dimension than the model's, or a model other
            than the one that encoded the index.
    """
    if settings.limit is not None and settings.limit < 1:
        raise UsageError(f"--limit must be at least 1, found {settings.limit}")
    index = Index.open(settings.index, verify=settings.verify)
    names, codes = _queries(settings, index)
    results: list[dict[str, Any]] = []
    for start in range(0, len(names), _QUERIES):
        distances, rows = index.search(codes[start : start + _QUERIES], settings.k)
        ids = iter(index.ids(rows.ravel()))
        for name, found, near in zip(names[start:], rows.tolist(), distances.tolist(), strict=False):
            neighbors = [
                {"id": next(ids), "row": row, "distance": distance} for row, distance in zip(found, near, strict=True)
            ]
            results.append({"query": name, "neighbors": neighbors})
    return {"index": str(settings.index), "k": min(settings.k, index.ntotal), "results": results}


def _queries(settings: SearchSettings, index: Index) -> tuple[list[str], np.ndarray]:
    """The queries' names and codes, in the order vectors, images, ids; at most `limit`."""
    found = []
    if settings.queries is not None:
        found.append(_of_vectors(settings, index))
    if settings.images:
        found.append(_of_images(settings, index))
    if settings.ids:
        found.append((list(settings.ids), np.stack([_code_of(name, index) for name in settings.ids])))
    if not found:
        if index.queries is None:
            raise UsageError(
                f"{settings.index} has no query split: give queries with --queries FILE, --image FILE or --id ID"
            )
        found.append((index.queries.names(), index.queries.codes))
    names = [name for part, _ in found for name in part]
    return names[: settings.limit], np.concatenate([codes for _, codes in found])[: settings.limit]


def _of_vectors(settings: SearchSettings, index: Index) -> tuple[list[str], np.ndarray]:
    from sdc.extract.embeddings import read_vectors

    assert settings.queries is not None
    vectors, names = read_vectors(settings.queries)
    return names, _encode(settings, index, vectors[: settings.limit], str(settings.queries))


def _of_images(settings: SearchSettings, index: Index) -> tuple[list[str], np.ndarray]:
    from sdc.extract.encoder import features_of_images

    provenance = index.metadata.get("features", {}).get("provenance", {})
    if provenance.get("source") != "extract":
        raise UsageError(
            f"{settings.index} does not record a backbone ({provenance.get('source', 'plain FAISS')}): "
            "images can't be embedded for it; give their vectors with --queries"
        )
    paths = settings.images[: settings.limit]
    features = features_of_images(paths, provenance, settings.weights)
    return [str(path) for path in paths], _encode(settings, index, features, "the images")


def _code_of(name: str, index: Index) -> np.ndarray:
    parts = [part for part in (index.database, index.queries) if part is not None]
    for part in parts:
        place = part.find(name)
        if place >= 0:
            code: np.ndarray = part.codes[place]
            return code
    near = [candidate for part in parts for candidate in part.nearest(name)]
    hint = f"did you mean {near[0]!r}?" if near else f"its ids look like {index.database.names(np.arange(1))[0]!r}"
    raise UsageError(f"unknown id {name!r}: neither database nor query split of {index.path} has it; {hint}")


def _encode(settings: SearchSettings, index: Index, vectors: np.ndarray, origin: str) -> np.ndarray:
    model = _model(settings, index)
    if vectors.ndim != 2 or vectors.shape[1] != model.dimension:
        raise UsageError(
            f"{origin}: found vectors of shape {vectors.shape}, the model of {settings.index} takes "
            f"{model.dimension} dimensions: use the features' backbone for queries too"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        listed = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise SdcError(f"{origin}: {len(bad)} vectors hold NaN or Inf (rows {listed}); remove or repair them")
    return pack(model.outputs(vectors))


def _model(settings: SearchSettings, index: Index) -> Model:
    """The model that encoded the index; another one is refused, since its codes mean something else."""
    if not index.vouched and settings.model is not None:
        model = Model.load(settings.model)
        log.warning("%s does not record its model: that %s encoded it is taken on trust", index.path, settings.model)
        return model
    recorded, fingerprint = index.recorded("model")
    path = settings.model or recorded
    if not path.exists() and settings.model is None:
        raise SdcError(f"the model that encoded {settings.index} is not at {path}: say where it is with --model")
    model = Model.load(path)
    if model.fingerprint != fingerprint:
        raise UsageError(
            f"{settings.index} was encoded by the model {fingerprint}, but {path} is {model.fingerprint}: "
            "name the right one with --model, or encode again"
        )
    recentered = index.metadata["model"].get("recentered")
    return model if recentered is None else model.recentered(np.array(recentered["mean"], np.float32))
