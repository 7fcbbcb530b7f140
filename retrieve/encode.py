"""`sdc encode`: a feature store and a model become db.bin, the database's codes with the queries' beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.artifacts import Progress, SdcError, UsageError, log, settle, unknown, writable
from sdc.extract.store import FeatureStore
from sdc.retrieve.bits import pack
from sdc.retrieve.entries import Entries, Ids
from sdc.retrieve.index import INDEX_TYPES, Index
from sdc.train.model import Model

_BLOCK = 8192  # rows encoded at once


@dataclass(frozen=True)
class EncodeSettings:
    """What `sdc encode` does; the defaults are the command's.

    Attributes:
        features: the feature store to encode; it need not be the one the model was trained on.
        model: the hash head.
        index_type: one of `sdc.retrieve.index.INDEX_TYPES`.
        out: where db.bin goes.
        overwrite: replace an `out` that was made otherwise.
    """

    features: Path = Path("feats.h5")
    model: Path = Path("model.safetensors")
    index_type: str = "flat"
    out: Path = Path("db.bin")
    overwrite: bool = False


def run(settings: EncodeSettings) -> Path:
    """Encodes the database and the query split of a feature store into db.bin.

    Raises:
        SdcError: features or model are missing or damaged, the database split is empty, db.bin cannot be written.
        UsageError: an unknown index type, features of another dimension than the model's, or an `out` that was
            made from other features or by another model.
    """
    if settings.index_type not in INDEX_TYPES:
        raise unknown("index type", settings.index_type, INDEX_TYPES)
    model = Model.load(settings.model)
    store = FeatureStore(settings.features)
    metadata = _metadata(settings, model, store)
    out = Path(settings.out)
    if out.is_file() and not settings.overwrite:
        settle(out, _origin(_existing(out).metadata), _origin(metadata))
        return out
    writable(out, settings.features, settings.model)
    _check(settings, model, store)
    database, queries = store.splits["database"], store.splits["query"]
    with Progress("encode", len(database) + len(queries), "rows") as progress:
        codes = encode_rows(model, store, database, progress)
        query_codes = encode_rows(model, store, queries, progress)
    ids, labels = store.ids(queries), None if store.labels is None else store.labels[queries]
    index = Index.build(
        codes,
        ids=store.ids(database),
        labels=None if store.labels is None else store.labels[database],
        rows=database,
        queries=Entries(query_codes, queries, Ids.of(ids), labels) if len(queries) else None,
        metadata=metadata,
    )
    index.save(out)
    log.info("%s: %d codes of %d bits, and %d queries", out, len(index), index.bits, len(queries))
    return out


def encode_rows(model: Model, store: FeatureStore, rows: np.ndarray, progress: Progress) -> np.ndarray:
    """Codes of `rows` of a store, (n, bits // 8) uint8, read block by block."""
    codes = np.empty((len(rows), model.bits // 8), np.uint8)
    done = 0
    for features in store.blocks(rows, _BLOCK):
        codes[done : done + len(features)] = pack(model.outputs(features))
        done += len(features)
        progress.advance(len(features))
    return codes


def _check(settings: EncodeSettings, model: Model, store: FeatureStore) -> None:
    if store.dimension != model.dimension:
        raise UsageError(
            f"{settings.features} has features of {store.dimension} dimensions, {settings.model} was trained on "
            f"{model.dimension}: take features of the same backbone, or train a model on these"
        )
    if not len(store.splits["database"]):
        raise SdcError(f"{settings.features} has no rows in its database split: there is nothing to encode")
    trained_on = model.metadata.get("features", {}).get("fingerprint")
    if trained_on != store.fingerprint:
        log.info(
            "%s was trained on other features (%s) than %s holds (%s): fine if one backbone made both",
            settings.model, trained_on, settings.features, store.fingerprint,
        )  # fmt: skip


def _metadata(settings: EncodeSettings, model: Model, store: FeatureStore) -> dict[str, Any]:
    """Where the codes come from. Paths are relative to db.bin's folder, so that all may move together."""
    folder = Path(settings.out).absolute().parent
    return {
        "model": {
            "path": os.path.relpath(settings.model, folder),
            "fingerprint": model.fingerprint,
            "method": model.metadata.get("method"),
            "trained_on": model.metadata.get("features", {}).get("fingerprint"),
        },
        "features": {
            "path": os.path.relpath(settings.features, folder),
            "fingerprint": store.fingerprint,
            "provenance": store.provenance,
        },
        "settings": {"index_type": settings.index_type},
    }


def _origin(metadata: dict[str, Any]) -> dict[str, Any]:
    """What decides a db.bin's content: the fields that must agree for an existing one to be kept."""
    return {
        "model": metadata.get("model", {}).get("fingerprint"),
        "features": metadata.get("features", {}).get("fingerprint"),
        "settings": metadata.get("settings", {}),
    }


def _existing(out: Path) -> Index:
    try:
        return Index.open(out)
    except SdcError as error:
        raise SdcError(f"{error}; --overwrite replaces it") from None
