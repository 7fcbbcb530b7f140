"""`sdc encode`: a feature store and a model become db.bin, the database's codes with the queries' beside them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.store import LEVELS, FeatureStore, Listing
from sdc.files import check_same_settings, linked_file, writable
from sdc.progress import Progress
from sdc.retrieve.index import RECALL, Ids, Index, Records, check_fits, check_index_type
from sdc.train import NORM_EPS, Model

RECENTERED = ("paper-instance",)  # presets for which re-centring is the default
_BLOCK = 8192  # rows encoded at once


@dataclass(frozen=True)
class EncodeSettings:
    """What `sdc encode` does; the defaults are the command's.

    Attributes:
        features: the feature store to encode; it need not be the one the model was trained on.
        model: the hash head.
        index_type: a name in `sdc.retrieve.index.INDEX_TYPES`, or auto: the type that reaches `recall` faster,
            measured on these codes.
        recall: recall@10 against exact search that an approximate type is to reach.
        memory: bytes that codes and lists may take in a search; None is any number.
        recenter: give the head's batch norm the mean of the database instead of the training set's; by default for
            models of a preset in `RECENTERED` whose head has a batch norm.
        no_refine: keep the signs of the head's outputs, though the model refines codes against its byte tables.
        out: where db.bin goes.
        overwrite: replace an `out` that was made otherwise.
    """

    features: Path = Path("feats.h5")
    model: Path = Path("model.safetensors")
    index_type: str = "flat"
    recall: float = RECALL
    memory: int | None = None
    recenter: bool | None = None
    no_refine: bool = False
    out: Path = Path("db.bin")
    overwrite: bool = False


def run(settings: EncodeSettings) -> Path:
    """Encodes the database and the query split of a feature store into db.bin.

    A head that was trained on one set may collapse on another: where the projections' mean has moved, bits are the same
    for almost all rows. Re-centring takes the mean anew, of the database, in a pass of its own; db.bin keeps it, so
    that `sdc search` encodes queries alike.

    Raises:
        SdcError: features or model are missing or damaged, the database split is empty, db.bin cannot be written.
        UsageError: an unknown index type, recall or memory out of range, codes that do not fit into the memory,
            features of another dimension than the model's, re-centring a head without batch norm, or an `out` that was
            made from other features, by another model or with other settings.
    """
    check_index_type(settings.index_type, settings.recall, settings.memory)
    model = Model.load(settings.model)
    store = FeatureStore(settings.features)
    recenter = _recenters(settings, model)
    metadata = _metadata(settings, model, store, recenter=recenter)
    out = Path(settings.out)
    if out.is_file() and not settings.overwrite:
        existing = _existing(out)
        check_same_settings(out, _origin(existing.metadata), _origin(metadata))
        _say_changed(out, existing)
        return out
    writable(out, settings.features, settings.model)
    _check(settings, model, store)
    database, queries = store.splits["database"], store.splits["query"]
    with Progress("encode", (1 + recenter) * len(database) + len(queries), "rows") as progress:
        if recenter:
            mean = mean_projection(model, store, database, progress)
            metadata["model"]["recentered"] = {"mean": mean.tolist()}
            _say_moved(model, mean)
            model = model.recentered(mean)
        refine = not settings.no_refine
        codes = encode_rows(model, store, database, progress, refine=refine)
        query_codes = encode_rows(model, store, queries, progress, refine=refine, query=True)
    ids = Ids.of_rows(store.encoded_ids, queries)
    split = Records(query_codes, queries, ids, groundtruth=store.groundtruth, **labels_of_rows(store, queries))
    index = Index.build(
        codes,
        ids=Ids.of_rows(store.encoded_ids, database),
        **labels_of_rows(store, database),
        classes=store.classes,
        texts=None if store.texts is None else Ids.of_stored(store.texts, database),
        rows=database,
        lengths=code_lengths(model, codes),
        queries=split if len(queries) else None,
        metadata=metadata,
        index_type=settings.index_type,
        recall=settings.recall,
        memory=settings.memory,
        copy=False,
    )
    index.save(out)
    log.info("%s: %d codes of %d bits, and %d queries", out, len(index), index.bits, len(queries))
    return out


def encode_rows(
    model: Model, store: FeatureStore, rows: np.ndarray, progress: Progress, *, refine: bool = True, query: bool = False
) -> np.ndarray:
    """Codes of `rows` of a store, (n, bits // 8) uint8, read block by block; see `sdc.train.Model.encode`."""
    codes = np.empty((len(rows), model.bits // 8), np.uint8)
    done = 0
    for features in store.blocks(rows, _BLOCK):
        codes[done : done + len(features)] = model.encode(features, refine=refine, query=query)
        done += len(features)
        progress.advance(len(features))
    return codes


def code_lengths(model: Model, codes: np.ndarray) -> np.ndarray | None:
    """The length byte of each code, (n,) uint8, where the model has byte tables."""
    return None if model.tables is None else model.tables.decoder.lengths(codes)


def mean_projection(model: Model, store: FeatureStore, rows: np.ndarray, progress: Progress) -> np.ndarray:
    """The mean over `rows` of what the batch norm is applied to, (K,) float32, summed in float64, block by block."""
    total = np.zeros(model.bits, np.float64)
    for features in store.blocks(rows, _BLOCK):
        total += model.projections(features).sum(axis=0, dtype=np.float64)
        progress.advance(len(features))
    mean: np.ndarray = (total / len(rows)).astype(np.float32)
    return mean


def _recenters(settings: EncodeSettings, model: Model) -> bool:
    if settings.recenter and not model.normalizes:
        raise UsageError(
            f"--recenter: the head of {settings.model} (method {model.metadata.get('method')}) has no batch norm whose "
            "mean could be taken anew: encode without it, or train a head with one (`sdc train --method sdc --norm`)"
        )
    if settings.recenter is None:
        return model.normalizes and model.metadata.get("preset") in RECENTERED
    return settings.recenter


def _say_changed(out: Path, existing: Index) -> None:
    if existing.changes is not None or existing.metadata.get("follows", {}).get("changes") == "merged":
        log.warning(
            "%s has items added or removed since it was encoded (generation %d), which stays so: --overwrite encodes "
            "it anew, without these changes", out, existing.generation,
        )  # fmt: skip


def _say_moved(model: Model, mean: np.ndarray) -> None:
    deviation = np.sqrt(model.tensors["norm.running_var"] + NORM_EPS)
    moved = np.abs(mean - model.tensors["norm.running_mean"]) / deviation
    log.info(
        "the batch norm is re-centred: the database's mean is %.2g standard deviations from the training set's "
        "(median over bits; %.2g at most)", np.median(moved), moved.max(),
    )  # fmt: skip


def labels_of_rows(source: FeatureStore | Listing, rows: np.ndarray) -> dict[str, Any]:
    """Both levels of labels of `rows`, under the names they have in `Records`."""
    both = {level: getattr(source, level) for level in LEVELS}
    return {name: None if labels is None else labels[rows] for name, labels in both.items()}


def _check(settings: EncodeSettings, model: Model, store: FeatureStore) -> None:
    if store.dimension != model.dimension:
        raise UsageError(
            f"{settings.features} has features of {store.dimension} dimensions, {settings.model} was trained on "
            f"{model.dimension}: take features of the same backbone, or train a model on these"
        )
    if not len(store.splits["database"]):
        raise SdcError(f"{settings.features} has no rows in its database split: there is nothing to encode")
    check_fits(len(store.splits["database"]), model.bits // 8, settings.index_type, settings.memory)
    trained_on = model.metadata.get("features", {}).get("fingerprint")
    if trained_on != store.fingerprint:
        log.info(
            "%s was trained on other features (%s) than %s holds (%s): fine if one backbone made both",
            settings.model, trained_on, settings.features, store.fingerprint,
        )  # fmt: skip
        if "groups" in model.metadata:
            log.info("head, middle and tail classes are those of the other features: they are not evaluated apart")


def _metadata(settings: EncodeSettings, model: Model, store: FeatureStore, *, recenter: bool) -> dict[str, Any]:
    """Where the codes come from. Paths are relative to db.bin's folder, so that all may move together."""
    folder = linked_file(Path(settings.out)).absolute().parent
    trained_on = model.metadata.get("features", {}).get("fingerprint")
    # Groups go by the numbers of classes, which mean something only in the features that were trained on.
    groups = model.metadata.get("groups") if trained_on == store.fingerprint else None
    return {
        "model": {
            "path": os.path.relpath(settings.model, folder),
            "fingerprint": model.fingerprint,
            "method": model.metadata.get("method"),
            "trained_on": trained_on,
            **({"groups": groups} if groups else {}),
        },
        "features": {
            "path": os.path.relpath(settings.features, folder),
            "fingerprint": store.fingerprint,
            "provenance": store.provenance,
        },
        # Only where they make a difference, so that the settings of other indexes stay what they were.
        "settings": {
            "index_type": settings.index_type,
            **({} if settings.index_type == "flat" else {"recall": settings.recall, "memory": settings.memory}),
            **({"recenter": True} if recenter else {}),
            **({"no_refine": True} if settings.no_refine else {}),
        },
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
