"""`sdc search` in another engine: the queries are encoded here, and their neighbors found there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.extract.store import Classes, classes_of_json
from sdc.retrieve.answer import Neighbors, build_answer, label_columns, ragged_neighbors
from sdc.retrieve.engines.base import Engine, Hits, Record
from sdc.retrieve.engines.registry import connect, parse
from sdc.retrieve.engines.reranked import PushedReranker
from sdc.retrieve.engines.urls import Target
from sdc.retrieve.filters import label_numbers
from sdc.retrieve.queries import Queries, QueryEncoder, first_queries
from sdc.retrieve.search_settings import SearchSettings


@dataclass(frozen=True)
class Pushed:
    """The index that a collection was pushed from, as its record has it; queries are encoded as for an `Index`."""

    path: str
    metadata: dict[str, Any]
    vouched: bool = True

    def recorded(self, what: Literal["model", "features"]) -> tuple[Path, str]:
        """Where the model or features were at the push, and their fingerprint; see `Index.recorded`."""
        origin = self.metadata.get(what)
        if not origin:
            raise UsageError(
                f"{self.path} records no {what}: it was pushed from an index that `sdc encode` did not write"
            )
        return Path(origin["path"]), str(origin["fingerprint"])


def search(settings: SearchSettings) -> dict[str, Any]:
    """Searches a collection or table that `sdc push` made.

    Returns:
        As `sdc.retrieve.search.search`. Of items that tie at the k-th distance, or at that of the last candidate for
        reranking, the engine chooses.

    Raises:
        SdcError: the engine can't be reached or refuses, there is no such collection, its codes are not those that
            were pushed, or a query is damaged.
        UsageError: no queries, k or a radius out of the engine's range, an option that files alone have, an unknown id
            or label, or a model other than the one that encoded the index.
    """
    target = parse(str(settings.index))
    _check(settings)
    with contextlib.closing(connect(target, create=False)) as engine:
        record = engine.record()
        if record is None:
            raise SdcError(f"there is nothing at {target.url}: make it with `sdc push --to {target.url}`")
        _check_nprobe(settings, record)
        _check_count(engine, target, record)
        origin = Pushed(target.url, record.metadata, vouched=bool(record.metadata))
        encoder = QueryEncoder(origin, settings.model, settings.weights)
        parts = _queries(settings, engine, target, record, encoder)
        names = [name for part in parts for name in part.names]
        classes = classes_of_json(record.metadata.get("classes"))
        labels = _labels(settings, engine, record, classes)
        count = engine.count(labels) if labels else record.count
        k = min(settings.k, count) if settings.radius is None else min(count, engine.most)
        if k > engine.most:
            raise UsageError(f"-k {settings.k} is beyond {target.url}, which returns {engine.most} at most")
        find = partial(_hits, settings, engine, labels)
        if settings.rerank is not None:
            reranker = PushedReranker(settings, origin, encoder.model, k, count, engine.most)
            found = (
                _neighbors(each, classes, {reranker.measure: values})
                for each, values in reranker.search(partial(find, with_codes=True), parts)
            )
            return build_answer(target.url, k, names, found, rerank=reranker.described())
        hits = find(np.concatenate([part.codes for part in parts]), k)
    if settings.radius is not None and k < count and any(len(each.rows) == k for each in hits):
        raise UsageError(f"--radius {settings.radius} takes in more than {k}, the most that the engine returns")
    return build_answer(target.url, k, names, (_neighbors(each, classes) for each in hits), radius=settings.radius)


def _hits(
    settings: SearchSettings,
    engine: Engine,
    labels: tuple[int, ...],
    codes: np.ndarray,
    k: int,
    *,
    with_codes: bool = False,
) -> list[Hits]:
    """As an index in a file: exact within a radius, among some labels, and where too few are found for k."""
    if settings.radius is not None or labels:
        return engine.search(
            codes, k, radius=settings.radius, labels=labels, nprobe=settings.nprobe, exact=True, with_codes=with_codes
        )
    hits = engine.search(codes, k, nprobe=settings.nprobe, with_codes=with_codes)
    short = [number for number, near in enumerate(hits) if len(near.rows) < k]
    if short:
        for number, near in zip(short, engine.search(codes[short], k, exact=True, with_codes=with_codes), strict=True):
            hits[number] = near
    return hits


def _neighbors(hits: Hits, classes: Classes, finer: Mapping[str, np.ndarray] | None = None) -> Neighbors:
    columns = {"row": hits.rows, "distance": hits.distances, **(finer or {}), **label_columns(hits.labels, classes)}
    return ragged_neighbors(hits.ids, columns, [0, len(hits.ids)])[0]


def _check(settings: SearchSettings) -> None:
    settings.check()
    if settings.radius is not None and settings.radius < 0:
        raise UsageError(f"the radius must be at least 0, found {settings.radius}")
    if settings.rerank == "auto":
        raise UsageError(
            "--rerank auto measures on an index in a file: search the db.bin with it, and give the factor that it "
            f"names for {settings.index}"
        )
    here = {
        "--query float": settings.query if settings.query != "code" else None,
        "--recall": settings.recall, "--features": settings.features if settings.rerank is None else None,
        "--only-ids": settings.only_ids, "--explain": settings.explain or None,
    }  # fmt: skip
    for option, value in here.items():
        if value is not None:
            raise UsageError(f"{option} is for an index in a file, not for {settings.index}: search the db.bin with it")
    if not (settings.queries or settings.images or settings.ids):
        raise UsageError(
            f"the query split stays with the db.bin: give queries for {settings.index} with --queries FILE, "
            "--image FILE or --id ID"
        )


def _check_nprobe(settings: SearchSettings, record: Record) -> None:
    if settings.nprobe is None:
        return
    if record.index_type != "ivf":
        raise UsageError(f"--nprobe is for an index of type ivf, but {settings.index} is {record.index_type}")
    if settings.nprobe < 1:
        raise UsageError(f"--nprobe must be at least 1, found {settings.nprobe}")


def _check_count(engine: Engine, target: Target, record: Record) -> None:
    """Refuses what a push has not finished, or something else has changed: its answers would miss items."""
    count = engine.count()
    if count != record.count:
        raise SdcError(
            f"{target.url} has {count} of the {record.count} codes of its index: finish it with "
            f"`sdc push --to {target.url}`"
            if count < record.count
            else f"{target.url} has {count} codes, but {record.count} were pushed: push it anew with --overwrite"
        )


def _labels(settings: SearchSettings, engine: Engine, record: Record, classes: Classes) -> tuple[int, ...]:
    """The labels that are searched alone, by number; each is some item's."""
    if settings.only_labels and record.labels == "none":
        raise UsageError(f"{settings.index} has no labels to choose by: push an index that has them")
    labels = label_numbers(settings.only_labels, classes.get("labels", {}))
    for label in labels:
        if not engine.count((label,)):
            raise UsageError(f"no code of {settings.index} has the label {label}")
    return labels


def _queries(
    settings: SearchSettings, engine: Engine, target: Target, record: Record, encoder: QueryEncoder
) -> list[Queries]:
    """The queries, in the order vectors, images, ids."""
    parts = [encoder.from_file(settings.queries, settings.limit)] if settings.queries else []
    parts += [encoder.from_images(settings.images, settings.limit)] if settings.images else []
    if settings.ids:
        items = engine.find(settings.ids)
        for name in settings.ids:
            if name not in items:
                raise UsageError(f"unknown id {name!r}: {target.url} has no such item")
        codes, rows = zip(*(items[name] for name in settings.ids), strict=True)
        parts.append(Queries(list(settings.ids), np.stack(codes), np.array(rows)))
    for part in parts:
        if part.codes.shape[1] * 8 != record.bits:
            raise UsageError(
                f"query codes have {part.codes.shape[1] * 8} bits, {target.url} has {record.bits}: encode both with "
                "one model"
            )
    return first_queries(parts, settings.limit)
