"""Queries: items of an index, vectors or images, as codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.train import Model


class Origin(Protocol):
    """What names the model of queries: an index, or another engine's copy of it."""

    @property
    def path(self) -> Path | str | None: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def vouched(self) -> bool: ...

    def recorded(self, what: Literal["model", "features"]) -> tuple[Path, str]: ...


@dataclass(frozen=True)
class Queries:
    """Q queries of one kind: vectors, or items of the index.

    Attributes:
        names: of the queries.
        codes: (Q, bits // 8) uint8.
        rows: (Q,) of feats.h5, of items of the index; None of vectors.
        features: (Q, d) float32, and
        outputs: (Q, bits) float32, the model's real outputs; of items of the index None until they are read.
    """

    names: list[str]
    codes: np.ndarray
    rows: np.ndarray | None = None
    features: np.ndarray | None = None
    outputs: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int | None) -> Queries:
        """The first `count` of them; None takes all."""
        columns = (self.rows, self.features, self.outputs)
        cut = (None if column is None else column[:count] for column in columns)
        return Queries(self.names[:count], self.codes[:count], *cut)


class QueryEncoder:
    """Encodes queries with the model that encoded an index; it is loaded once, when it is first needed.

    Args:
        index: what is searched.
        path: of the model; None takes the recorded one.
        weights: of the backbone, for images.
    """

    def __init__(self, index: Origin, path: Path | None = None, weights: str | None = None) -> None:
        self._index, self._path, self._weights = index, path, weights

    @cached_property
    def model(self) -> Model:
        """See `load_index_model`."""
        return load_index_model(self._index, self._path)

    def from_file(self, path: Path, limit: int | None = None) -> Queries:
        """The first `limit` vectors of a file; see `encode_vectors`."""
        from sdc.extract import read_vectors

        vectors, names = read_vectors(path)
        return self._encode(names[:limit], vectors[:limit], str(path))

    def from_images(self, paths: Sequence[Path], limit: int | None = None) -> Queries:
        """The first `limit` images, embedded by the backbone that is recorded with the features.

        Raises:
            UsageError: none is recorded.
        """
        from sdc.extract import features_of_images

        provenance = self._index.metadata.get("features", {}).get("provenance", {})
        if provenance.get("source") != "extract":
            raise UsageError(
                f"{self._index.path} does not record a backbone ({provenance.get('source', 'plain FAISS')}): "
                "images can't be embedded for it; give their vectors with --queries"
            )
        paths = paths[:limit]
        features = features_of_images(paths, provenance, self._weights)
        return self._encode([str(path) for path in paths], features, "the images")

    def _encode(self, names: list[str], vectors: np.ndarray, origin: str) -> Queries:
        outputs = model_outputs(vectors, self.model, origin)
        codes = self.model.encode(vectors, refine=is_refined(self._index), query=True, outputs=outputs)
        return Queries(names, codes, features=np.asarray(vectors, np.float32), outputs=outputs)


def encode_vectors(vectors: np.ndarray, model: Model, origin: str, *, refine: bool) -> np.ndarray:
    """The codes of query vectors, (Q, bits // 8) uint8.

    Args:
        refine: as `is_refined` of the index that is searched; the others and the errors are those of `model_outputs`.
    """
    return model.encode(vectors, refine=refine, query=True, outputs=model_outputs(vectors, model, origin))


def is_refined(index: Origin) -> bool:
    """Whether the codes of an index are refined where its model can: unless it was encoded with --no-refine."""
    return not index.metadata.get("settings", {}).get("no_refine", False)


def model_outputs(vectors: np.ndarray, model: Model, origin: str) -> np.ndarray:
    """The model's real outputs of query vectors, (Q, bits) float32.

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
    return outputs


def _check_finite(values: np.ndarray, origin: str, problem: str, remedy: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        listed = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise SdcError(f"{origin}: {len(bad)} vectors hold {problem} (rows {listed}); {remedy}")


def load_index_model(index: Origin, named: Path | None = None) -> Model:
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
