"""Queries: items of an index, vectors or images, as codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.retrieve.origin import Origin, is_refined
from sdc.train import Model

_DIFFERENT = 0.02  # the most bits that may differ: rounding features to 16 bits moves some


def first_queries(parts: list[Queries], limit: int | None) -> list[Queries]:
    """The first `limit` queries of all parts together; None takes all."""
    if limit is None:
        return parts
    cut = []
    for part in parts:
        cut.append(part.first(limit))
        limit -= len(cut[-1])
    return cut


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
        """The first `limit` vectors of a file; of an index that was made of codes, codes.

        Raises:
            UsageError: codes of another width than the index has; and as `encode_queries`.
        """
        from sdc.extract import read_codes, read_vectors

        if self._path is None and "codes" in self._index.metadata:
            codes, names = read_codes(path)
            if 8 * codes.shape[1] != (bits := self._index.metadata["bits"]):
                raise UsageError(f"{path}: found codes of {8 * codes.shape[1]} bits, {self._index.path} has {bits}")
            return Queries(names[:limit], codes[:limit])
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
        return encode_queries(vectors, self.model, origin, refine=is_refined(self._index), names=names)


def encode_queries(
    vectors: np.ndarray, model: Model, origin: str, *, refine: bool, names: list[str] | None = None
) -> Queries:
    """Query vectors (Q, d) as queries.

    Args:
        refine: as `is_refined` of the index that is searched; the others and the errors are those of `model_outputs`.
        names: of the queries; without, their places.
    """
    outputs = model_outputs(vectors, model, origin)
    codes = model.encode(vectors, refine=refine, query=True, outputs=outputs)
    names = [str(place) for place in range(len(vectors))] if names is None else names
    return Queries(names, codes, features=np.asarray(vectors, np.float32), outputs=outputs)


def check_codes(features: np.ndarray, codes: np.ndarray, model: Model, index: Origin) -> None:
    """Raises UsageError unless features (n, d) have these codes (n, bits // 8), but for what rounding moves."""
    different = float(np.unpackbits(model.encode(features, refine=is_refined(index)) ^ codes).mean())
    if different > _DIFFERENT:
        raise UsageError(
            f"these are not the features that were encoded: of {len(features)} rows {different:.0%} of the bits are "
            "others than in the index; give the right ones, by the rows of the index"
        )


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


def load_index_model(index: Origin, named: Path | Model | None = None) -> Model:
    """The model that encoded the index; another one is refused, since its codes mean something else.

    Args:
        named: it, or where it is; None takes the recorded path.

    Raises:
        SdcError: it is not there, or damaged.
        UsageError: the index records none and none is named, or it was another one.
    """
    what = "the given model" if isinstance(named, Model) else named
    if named is not None and not index.metadata.get("model"):
        model = named if isinstance(named, Model) else Model.load(named)
        if index.path is not None:
            log.warning("%s does not record its model: that %s encoded it is taken on trust", index.path, what)
        return model
    recorded, fingerprint = index.recorded("model")
    if isinstance(named, Model):
        model = named
    else:
        if named is None and not recorded.exists():
            raise SdcError(f"the model that encoded {index.path} is not at {recorded}: say where it is with --model")
        model = Model.load(named or recorded)
    if model.fingerprint != fingerprint:
        raise UsageError(
            f"{index.path} was encoded by the model {fingerprint}, but {what or recorded} is {model.fingerprint}: "
            "name the right one with --model, or encode again"
        )
    recentered = index.metadata["model"].get("recentered")
    return model if recentered is None else model.recentered(np.array(recentered["mean"], np.float32))
