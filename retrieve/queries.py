"""Queries: rows of an index, vectors or images, as codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.retrieve.bits import pack
from sdc.retrieve.rerank.reranker import SecondStage
from sdc.retrieve.search_settings import SearchSettings
from sdc.train.model import Model


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


def of_vectors(settings: SearchSettings, index: Origin) -> Queries:
    """The queries of a file of vectors, encoded by the model of the index; see `codes_of` and `model_of`."""
    from sdc.extract.import_vectors import read_vectors

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
