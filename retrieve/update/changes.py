"""`sdc add`, `sdc remove`, `sdc compact`: changes to a db.bin that others may be reading.

Each is whole or has not happened: what it writes counts with the renaming of one file, the manifest, or db.bin itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, did_you_mean, log
from sdc.extract.store import FeatureStore
from sdc.files import atomic_write, checksum, explain_os_errors, sync
from sdc.progress import Progress
from sdc.retrieve.encode import encode_rows
from sdc.retrieve.filters import read_ids
from sdc.retrieve.index import Ids, Index, Records, file_format
from sdc.retrieve.index.delta import folder, items
from sdc.retrieve.index.delta.manifest import Change, Manifest, Part, Source
from sdc.retrieve.index.delta.merged_view import rows_as_bytes
from sdc.retrieve.queries import load_index_model
from sdc.retrieve.update import compatibility
from sdc.retrieve.update.settings import AddSettings, CompactSettings, RemoveSettings

_MANY = 0.2  # of db.bin, changed, from which on compaction is advised
_FILES = 1000  # changes, likewise: each takes a file or two to open
_NAMED = 3  # ids in a message


def add(settings: AddSettings) -> dict[str, Any]:
    """Adds the database split of a feature store, encoded as the index was, in one change.

    An item's row in the index is its row in its own store, counted on from the rows that were there before.

    Returns:
        The JSON of `sdc add`: index, added, replaced, rows (how many there are now) and generation.

    Raises:
        SdcError: a file is missing or damaged, no such database split, or no place to write.
        UsageError: the index records no model, or another one; features of another dimension or with other labels than
            the index has; ids that it has already, unless they are to be replaced.
    """
    with _changing(settings.index, verify=settings.verify) as (beside, index):
        model = load_index_model(index, settings.model)
        store = FeatureStore(settings.features, verify=settings.verify)
        rows = store.splits["database"]
        compatibility.addable(settings, index, store, model.dimension)
        names = store.encoded_ids[rows].tolist()
        gone, known = index.items.located(set(names))
        if known and not settings.replace:
            raise UsageError(
                f"{settings.index} has {len(known)} of the {len(names)} ids of {settings.features} already "
                f"({_some([name for name in names if name in known])}): --replace puts the new items in their place; "
                "items that are others need ids of their own (`sdc import --ids`)"
            )
        with Progress("encode", len(rows), "rows") as progress:
            codes = encode_rows(model, store, rows, progress)
        first = _next_row(index)
        ids = Ids.of_rows(store.encoded_ids, rows) or items.digits(rows)
        labels, coarse = (None if each is None else each[rows] for each in (store.labels, store.labels_coarse))
        where = os.path.relpath(settings.features, beside.absolute().parent)
        source = Source(where, store.fingerprint, first, len(store))
        compatibility.say_replaced(index, source)
        entries = Records(codes, rows + first, ids, labels, coarse)
        changed = _commit(beside, index, gone, entries, source)
    count = index.ntotal + len(rows) - len(gone)
    log.info("%s: %d added, %d replaced", settings.index, len(rows), len(gone))
    _advise(settings.index, changed, index)
    return {
        "index": str(settings.index),
        "added": len(rows),
        "replaced": len(gone),
        "rows": count,
        "generation": changed.generation,
    }


def remove(settings: RemoveSettings) -> dict[str, Any]:
    """Removes items by their ids, in one change.

    Returns:
        The JSON of `sdc remove`: index, removed, missing (ids that were not there), rows (how many there are now) and
        generation, which is a new one only where something was removed.

    Raises:
        SdcError: a file is missing or damaged, or no place to write.
        UsageError: no id is given, nothing would be left, or ids that the index does not have, unless that is ignored.
    """
    names = _named(settings)
    with _changing(settings.index, verify=settings.verify) as (beside, index):
        gone, known = index.items.located(set(names))
        missing = [name for name in names if name not in known]
        if missing and not settings.ignore_missing:
            raise UsageError(_unknown(settings.index, index, missing, len(names)))
        if len(gone) == index.ntotal:
            raise UsageError(
                f"these are all {index.ntotal} items of {settings.index}, but an index needs at least one: delete its "
                "files instead"
            )
        generation = index.generation
        if len(gone):
            changed = _commit(beside, index, gone)
            generation = changed.generation
            _advise(settings.index, changed, index)
    return {
        "index": str(settings.index),
        "removed": len(gone),
        "missing": len(missing),
        "rows": index.ntotal - len(gone),
        "generation": generation,
    }


def compact(settings: CompactSettings) -> dict[str, Any]:
    """Merges the changes of an index into a new db.bin, of the type that was asked for when it was encoded.

    Returns:
        The JSON of `sdc compact`: index, rows, generation (as before), and how many `added` and `removed` were merged.

    Raises:
        SdcError: a file is missing or damaged, or no place to write.
        UsageError: the codes no longer fit into the memory that `sdc encode` was given.
    """
    with _changing(settings.index, verify=True) as (beside, index):
        merged = index.changes
        if merged is None:
            log.info("%s has no changes: nothing to do", settings.index)
        else:
            _take_place(_compacted(index, merged).save(beside / folder.COMPACTED), index)
            folder.tidy(beside, None)
    return {
        "index": str(settings.index),
        "rows": index.ntotal,
        "generation": index.generation,
        "added": 0 if merged is None else merged.added,
        "removed": 0 if merged is None else merged.removed,
    }


@contextlib.contextmanager
def _changing(path: Path, *, verify: bool) -> Iterator[tuple[Path, Index]]:
    """The folder of an index's changes and the index as it stands, while nobody else changes it.

    What a killed writer has left goes first, and what this one leaves if it fails. A link is followed once: it may be
    made to lead elsewhere meanwhile.
    """
    path = folder.itself(path)
    Index.open(path, verify=False)  # refuses what is no index before anything is made beside it
    with folder.locked(path) as beside:
        index = Index.open(path, verify=verify)
        if not index.vouched:
            raise UsageError(f"{path} was written by plain FAISS and is only read: make one with `sdc encode`")
        folder.tidy(beside, index.changes)
        try:
            yield beside, index
        except BaseException:
            with contextlib.suppress(SdcError, OSError):
                folder.tidy(beside, Index.open(path, verify=False).changes)
            raise


def _compacted(index: Index, merged: Manifest) -> Index:
    try:
        return index.merged(**folder.follows(merged, merged=True))
    except UsageError as error:
        raise UsageError(
            f"{error}: what was added remains beside {index.path}; remove some of it, or encode all features anew with "
            "more --memory"
        ) from None


def _take_place(aside: Path, index: Index) -> None:
    """Puts a compacted db.bin in the place of the one that the index was opened from."""
    path = index.path
    assert path is not None
    with explain_os_errors(path):
        try:
            os.replace(aside, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise SdcError(
                f"{aside.parent} is on another disk than {path}, so that no file can be renamed from one to the "
                "other: move the folder beside it"
            ) from None
        sync(path.absolute().parent)


def _commit(
    beside: Path,
    index: Index,
    gone: np.ndarray,
    entries: Records | None = None,
    source: Source | None = None,
) -> Manifest:
    """Writes one change: the files, then the manifest that makes them count.

    Args:
        gone: rows to be removed.
        entries, source: what is added, if anything.
    """
    generation, changes = index.generation + 1, () if index.changes is None else index.changes.changes
    change = Change(generation)
    added = removed = None
    if entries is not None:
        path = beside / change.added_name
        _segment(entries, generation).save(path)
        trailer = file_format.read(path, verify=True).checksum
        assert trailer is not None
        added = Part(len(entries), trailer)
    if len(gone):
        data = rows_as_bytes(gone)
        with atomic_write(beside / change.removed_name) as temporary:
            temporary.write_bytes(data)
        removed = Part(len(gone), checksum(data))
    assert index.trailer is not None
    next_row = _next_row(index) if source is None else source.first + source.count
    changed = Manifest(index.trailer, generation, next_row, (*changes, Change(generation, added, source, removed)))
    changed.write(beside)
    return changed


def _segment(entries: Records, generation: int) -> Index:
    return Index.build(
        entries.codes,
        ids=entries.ids,
        labels=entries.labels,
        labels_coarse=entries.labels_coarse,
        rows=entries.rows,
        metadata={"generation": generation},
        copy=False,
    )


def _next_row(index: Index) -> int:
    """The first row number that no item has, and no source of items."""
    if index.changes is not None:
        return index.changes.next_row
    parts = [part.rows for part in (index.items.base, index.queries) if part is not None]
    free = (index.metadata.get("follows") or {}).get("next_row", 0)
    return int(max(free, *(rows.max(initial=-1) + 1 for rows in parts)))


def _named(settings: RemoveSettings) -> list[bytes]:
    """The ids that are to be removed, each once."""
    names = [name.encode("utf-8", "surrogateescape") for name in settings.ids]
    if settings.listed is not None:
        names += read_ids(settings.listed, "--ids")
    if not names:
        raise UsageError("no id to remove: give --id ID, or --ids FILE with an id a line")
    return list(dict.fromkeys(names))


def _unknown(path: Path, index: Index, missing: Sequence[bytes], count: int) -> str:
    name = _decoded(missing[0])
    hint = did_you_mean(name, index.items.nearest(name))
    return (
        f"{path} has no {_some(missing)} ({len(missing)} of {count} ids are unknown): {hint}nothing is removed; "
        "--ignore-missing takes such ids for removed"
    )


def _some(names: Sequence[bytes]) -> str:
    return ", ".join(repr(_decoded(name)) for name in names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _advise(path: Path, changed: Manifest, index: Index) -> None:
    share = (changed.added + changed.removed) / len(index.items.base)
    if share > _MANY or len(changed.changes) > _FILES:
        log.info(
            "%d items were added or removed since %s was written (%.0f %% of its items, in %d changes): `sdc compact` "
            "merges them, and makes searches faster",
            changed.added + changed.removed, path, 100 * share, len(changed.changes),
        )  # fmt: skip
