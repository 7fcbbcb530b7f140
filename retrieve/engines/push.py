"""`sdc push`: copies the codes of a db.bin into another engine, and checks that it finds what the index finds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.files import differing
from sdc.progress import Progress
from sdc.retrieve.bits import hamming
from sdc.retrieve.engines.base import MOST_ROWS, Engine, Hits, PushBatch, Record
from sdc.retrieve.engines.pushed_record import record_of
from sdc.retrieve.engines.registry import connect, engine_of, index_types, parse, url_forms
from sdc.retrieve.engines.urls import Target
from sdc.retrieve.index import FlatSearcher, Index, Records, own_positions

_BATCH_BYTES = 16 << 20  # engines refuse requests of more than 64 MB
_SAMPLE, _NEIGHBORS, _SEED = 100, 10, 0


@dataclass(frozen=True)
class PushSettings:
    """What `sdc push` does; the defaults are the command's.

    Attributes:
        to: where the codes go, see `sdc.retrieve.engines.urls`.
        index: a db.bin.
        index_type: flat (exact); ivf for Milvus or hnsw for PostgreSQL, both approximate.
        batch: codes a request, at most; long ids make it fewer.
        overwrite: replace what another index left under that name, and what something else has changed there.
        verify: check every byte of the index first.
    """

    to: str = ""
    index: Path = Path("db.bin")
    index_type: str = "flat"
    batch: int = 8192
    overwrite: bool = False
    verify: bool = True


class SpoiltError(SdcError):
    """What is in the engine has the right name and record, but not the index's codes."""


def run(settings: PushSettings) -> dict[str, Any]:
    """Pushes an index, or what a push that was cut off left to be done; then compares counts and sampled searches.

    Rows go in ascending order, so that what is there of a push that was cut off is known from its count.

    Returns:
        The JSON of `sdc push`: index, to, count, bits, index_type, pushed and already (codes of this and of an earlier
        run), seconds, and checked: {queries, k, recall}, the recall of the true distances, 1 for flat.

    Raises:
        UsageError: no URL, an unknown index type, a batch out of range, or another index's codes in that place.
        SdcError: the index is damaged, an id does not fit, the engine can't be reached or refuses, what is there was
            not made by `sdc push`, or its count or its distances are wrong in the end.
    """
    if not settings.to:
        raise UsageError(f"say where to with --to {', or '.join(url_forms())}")
    target = parse(settings.to)
    if not 1 <= settings.batch <= MOST_ROWS:
        raise UsageError(f"--batch must be from 1 to {MOST_ROWS}, found {settings.batch}")
    _check_type(settings.index_type, target)
    index = Index.open(settings.index, verify=settings.verify)
    record = record_of(index, settings.index_type)
    _check_ids(index.database, engine_of(target))
    start = time.monotonic()
    with contextlib.closing(connect(target, create=True)) as engine:
        already = _begin(settings, engine, record)
        try:
            checked = _complete(settings, engine, index, record, already)
        except SpoiltError as error:
            if not settings.overwrite:
                raise
            log.warning("%s: replaced", error)
            engine.drop()
            engine.create(record)
            already = 0
            checked = _complete(settings, engine, index, record, already)
    log.info(
        "%s: %d codes of %d bits, recall@%d %.4g in %d sampled queries",
        settings.to, record.count, record.bits, checked["k"], checked["recall"], checked["queries"],
    )  # fmt: skip
    return {
        "index": str(settings.index), "to": settings.to, "count": record.count, "bits": record.bits,
        "index_type": record.index_type, "pushed": record.count - already, "already": already,
        "seconds": round(time.monotonic() - start, 3), "checked": checked,
    }  # fmt: skip


def _check_type(name: str, target: Target) -> None:
    types = engine_of(target).types_at(target)
    if name in types:
        return
    if name in index_types():
        raise UsageError(f"--index-type {name} is not to be had at {target.url}: it takes {' or '.join(types)}")
    raise unknown_name_error("index type", name, types)


def _begin(settings: PushSettings, engine: Engine, record: Record) -> int:
    """Makes the collection, or finds out how much of it is there."""
    present = engine.record()
    if present is not None:
        different = differing(present.identity(), record.identity())
        if not different:
            there = engine.count()
            if 0 < there <= record.count:
                log.info(
                    "%s has %d of the %d codes: %s", settings.to, there, record.count,
                    "nothing to push" if there == record.count else "going on",
                )  # fmt: skip
            return there
        if not settings.overwrite:
            what = "an earlier or later state of" if _one_origin(present, record) else "another index than"
            raise UsageError(
                f"{settings.to} holds {what} {settings.index.name} ({'; '.join(different)}): "
                "--overwrite to replace it, or choose another name"
            )
        engine.drop()
    engine.create(record)
    return 0


def _one_origin(*records: Record) -> bool:
    """Whether the codes of both were made by one model, so that items added or removed may be all the difference."""
    made = [{**record.metadata.get("model", {}), "path": None} for record in records]
    kinds = [(record.bits, record.labels, record.index_type) for record in records]
    return "fingerprint" in made[0] and made[0] == made[1] and kinds[0] == kinds[1]


def _complete(settings: PushSettings, engine: Engine, index: Index, record: Record, already: int) -> dict[str, Any]:
    """Pushes what is missing, and checks the whole.

    Raises:
        SpoiltError: it is not what was pushed.
    """
    if already < record.count:
        _send(engine, index.database, already, settings.batch)
    engine.finish(record)
    count = engine.count()
    if count != record.count:
        raise SpoiltError(
            f"{settings.to} has {count} codes, but {settings.index} has {record.count}: something else has changed "
            "it; --overwrite pushes it anew"
        )
    return check(engine, index, record)


def _send(engine: Engine, database: Records, there: int, size: int) -> None:
    """Pushes what is missing of the database, of which `there` codes are in the engine."""
    # A batch that was cut off may be there in part, in any order: the rows around its end are looked at.
    start, sure = max(0, there - MOST_ROWS), there + MOST_ROWS if there else 0
    with Progress("push", len(database), "codes", already=there) as progress:
        for part in batches(database, start, size):
            missing = np.arange(part.start, part.stop)
            if part.start < sure:
                rows = database.rows[part]
                missing = missing[~np.isin(rows, _present(engine, rows))]
            if len(missing):
                engine.insert(batch_of(database, missing))
                progress.advance(len(missing))


def _present(engine: Engine, rows: np.ndarray) -> np.ndarray:
    """Those of some ascending rows that the engine has."""
    present = [np.zeros(0, np.int64)]
    while len(rows):
        asked = rows[rows < rows[0] + MOST_ROWS]
        present.append(engine.present(int(asked[0]), int(asked[-1])))
        rows = rows[len(asked) :]
    return np.concatenate(present)


def batches(database: Records, start: int, size: int, limit: int = _BATCH_BYTES) -> Iterator[slice]:
    """Consecutive slices of a database from `start` on, each of at most `size` codes and about `limit` bytes."""
    width = database.codes.shape[1] + 64
    while start < len(database):
        stop = min(start + size, len(database))
        if database.ids is not None:
            ends = database.ids.offsets[start + 1 : stop + 1] - database.ids.offsets[start]
            ends = ends + width * np.arange(1, len(ends) + 1)
            stop = start + max(1, int(np.searchsorted(ends, limit, side="right")))
        yield slice(start, stop)
        start = stop


def batch_of(database: Records, positions: np.ndarray) -> PushBatch:
    """The codes at some positions, ready to go."""
    labels: list[int] | list[list[int]] | None = None
    if database.labels is not None:
        part = database.labels[positions]
        labels = part.tolist() if part.ndim == 1 else [np.flatnonzero(row).tolist() for row in part]
    return PushBatch(database.rows[positions], database.names(positions), database.codes[positions], labels)


def _check_ids(database: Records, engine: type[Engine]) -> None:
    """Refuses ids that the engine would, before anything goes there; they are decoded only where it may matter.

    Raises:
        SdcError: one is no UTF-8, has a NUL, or is too long.
    """
    if database.ids is None:
        return
    longest = engine.longest_id
    for start in range(0, len(database), MOST_ROWS):
        ends = database.ids.offsets[start : start + MOST_ROWS + 1]
        text, lengths = database.ids.text[ends[0] : ends[-1]], np.diff(ends)
        if longest is not None and lengths.max() > longest:
            position = start + int(lengths.argmax())
            raise SdcError(
                f"the id of row {database.rows[position]} has {lengths.max()} bytes, {longest} are the most that "
                f"{engine.title} takes: shorten it"
            )
        if not len(text) or (text.min() > 0 and text.max() < 0x80):
            continue
        for position, name in enumerate(database.ids.take(np.arange(start, start + len(lengths))), start):
            if "\0" in name or (not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name)):
                raise SdcError(
                    f"the id {name!r} of row {database.rows[position]} is no UTF-8 text, and engines take no other: "
                    "rename it"
                )


def check(engine: Engine, index: Index, record: Record) -> dict[str, Any]:
    """Compares the engine's answers to sampled queries with the exact search here.

    Returns:
        queries, k, and recall: how many of the true k distances were found.

    Raises:
        SpoiltError: a distance, a row or an id is wrong, or a flat index misses a distance.
    """
    source = index.queries.codes if index.queries is not None else index.database.codes
    chosen = np.random.default_rng(_SEED).permutation(len(source))[:_SAMPLE]
    codes, k = np.ascontiguousarray(source[np.sort(chosen)]), min(_NEIGHBORS, len(index))
    true, _ = FlatSearcher(index.database.codes).search(codes, k)
    neighbors = engine.search(codes, k)
    for code, hits in zip(codes, neighbors, strict=True):
        if not _is_correct(index.database, code, hits):
            raise SpoiltError(
                "the engine answers with rows, ids or distances that are not the index's: push with --overwrite"
            )
    width = index.bits + 1
    reached = sum(
        np.minimum(np.bincount(distances, minlength=width), np.bincount(hits.distances, minlength=width)).sum()
        for distances, hits in zip(true, neighbors, strict=True)
    )
    recall = float(reached) / true.size
    if record.index_type == "flat" and recall < 1:
        raise SpoiltError(f"the engine's search should be exact, but finds {recall:.4f} of the true distances only")
    return {"queries": len(codes), "k": k, "recall": recall}


def _is_correct(database: Records, code: np.ndarray, hits: Hits) -> bool:
    """Whether each hit is an item of the database, once, with its id and its distance to the code."""
    positions = own_positions(hits.rows, database.rows)
    return (
        len(np.unique(hits.rows)) == len(hits.rows)
        and bool((positions >= 0).all())
        and np.array_equal(hamming(code[None], database.codes[positions])[0], hits.distances)
        and database.names(positions) == hits.ids
    )
