"""`sdc add`, `sdc remove`, `sdc compact`: changes to a db.bin that others may be reading.

Each is whole or has not happened: what it writes counts with the renaming of one file, the manifest, or db.bin itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, did_you_mean, log
from sdc.extract.store import FeatureStore, classes_to_json
from sdc.files import explain_os_errors, linked_file, require_file, sync
from sdc.progress import Progress
from sdc.retrieve.encode import code_lengths, encode_rows
from sdc.retrieve.filters import read_ids
from sdc.retrieve.index import Ids, Index, Records, decode_id, encode_id, write_new_index
from sdc.retrieve.index.delta import (
    COMPACTED,
    Change,
    Manifest,
    Part,
    Source,
    changes_folder,
    follows,
    locked,
    read_manifest,
    tidy,
    write_removed,
)
from sdc.retrieve.origin import is_refined
from sdc.retrieve.queries import load_index_model
from sdc.retrieve.update import compatibility
from sdc.retrieve.update.classes import match_labels
from sdc.retrieve.update.settings import AddSettings, CompactSettings, RemoveSettings

_MANY = 0.2  # of db.bin, changed, from which on compaction is advised
_FILES = 1000  # changes, likewise: each takes a file or two to open
_NAMED = 3  # ids in a message


def add(settings: AddSettings) -> dict[str, Any]:
    """Adds the database split of a feature store, encoded as the index was, in one change.

    An item's row in the index is its row in its own store, counted on from the rows that were there before.

    Returns:
        The JSON of `sdc add`: index, added, replaced, rows (how many there are now) and generation; where there are
        any new_classes, names by level of labels and number.

    Raises:
        SdcError: a file is missing or damaged, no such database split, or no place to write.
        UsageError: the index records no model, or another one; features of another dimension, with other labels than
            the index has or with classes that cannot be matched with its own; ids that it has already, unless they are
            to be replaced.
    """
    with _changing(settings.index, verify=settings.verify) as (beside, index):
        model = load_index_model(index, settings.model)
        store = FeatureStore(settings.features, verify=settings.verify)
        rows = store.splits["database"]
        compatibility.addable(settings, index, store, model.dimension)
        names = store.encoded_ids.encoded_at(rows)
        gone, known = index.items.rows_of_ids(set(names))
        if known and not settings.replace:
            raise UsageError(
                f"{settings.index} has {len(known)} of the {len(names)} ids of {settings.features} already "
                f"({_some([name for name in names if name in known])}): --replace puts the new items in their place; "
                "items that are others need ids of their own (`sdc import --ids`)"
            )
        labels, coarse, classes, new = match_labels(settings.features, index, store, rows)
        with Progress("encode", len(rows), "rows") as progress:
            codes = encode_rows(model, store, rows, progress, refine=is_refined(index))
        first = _next_row(index)
        ids = Ids.of_rows(store.encoded_ids, rows) or Ids.of_digits(rows)
        where = os.path.relpath(settings.features, beside.absolute().parent)
        source = Source(where, store.fingerprint, first, len(store))
        compatibility.say_replaced(index, source)
        lengths = code_lengths(model, codes)
        texts = None if store.texts is None else Ids.of_stored(store.texts, rows)
        added = Records(codes, rows + first, ids, labels, coarse, lengths=lengths, classes=classes, texts=texts)
        manifest = _commit(beside, index, gone, added, source)
    count = index.ntotal + len(rows) - len(gone)
    log.info("%s: %d added, %d replaced", settings.index, len(rows), len(gone))
    _advise(settings.index, manifest, index)
    return {
        "index": str(settings.index),
        "added": len(rows),
        "replaced": len(gone),
        "rows": count,
        "generation": manifest.generation,
        **({"new_classes": classes_to_json(new)} if new else {}),
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
        gone, known = index.items.rows_of_ids(set(names))
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
            manifest = _commit(beside, index, gone)
            generation = manifest.generation
            _advise(settings.index, manifest, index)
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
            _take_place(_compacted(index, merged).save(beside / COMPACTED), index)
            tidy(beside, None)
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
    path = require_file(linked_file(path), "index", "sdc encode")
    read_manifest(changes_folder(path))  # one that cannot be read is refused before anything is made beside it
    with locked(path) as beside:
        index = Index.open(path, verify=verify)
        if not index.vouched:
            raise UsageError(f"{path} was written by plain FAISS and is only read: make one with `sdc encode`")
        tidy(beside, index.changes)
        try:
            yield beside, index
        except BaseException:
            with contextlib.suppress(SdcError, OSError):
                tidy(beside, Index.open(path, verify=False).changes)
            raise


def _compacted(index: Index, merged: Manifest) -> Index:
    """The index with its changes in it."""
    try:
        return index.merged(**follows(merged, merged=True))
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
    items: Records | None = None,
    source: Source | None = None,
) -> Manifest:
    """Writes one change: the files, then the manifest that makes them count.

    Args:
        gone: rows to be removed.
        items, source: what is added, if anything.
    """
    past = () if index.changes is None else index.changes.changes
    change = Change(index.generation + 1)
    if items is not None:
        added = Part(len(items), _write_added(beside / change.added_name, items, change.generation))
        change = replace(change, added=added, source=source)
    if len(gone):
        change = replace(change, removed=write_removed(beside, change, gone))
    assert index.checksum is not None
    next_row = _next_row(index) if source is None else source.first + source.count
    manifest = Manifest(index.checksum, change.generation, next_row, (*past, change))
    manifest.write(beside)
    return manifest


def _write_added(path: Path, items: Records, generation: int) -> str:
    """Writes what a change adds, a flat db.bin; returns its checksum."""
    return write_new_index(
        path,
        items.codes,
        ids=items.ids,
        labels=items.labels,
        labels_coarse=items.labels_coarse,
        classes=items.classes,
        rows=items.rows,
        lengths=items.lengths,
        texts=items.texts,
        metadata={"generation": generation},
        copy=False,
    )


def _next_row(index: Index) -> int:
    """The first row number that no item has, and no source of items."""
    if index.changes is not None:
        return index.changes.next_row
    free = (index.metadata.get("follows") or {}).get("next_row", 0)
    queries = -1 if index.queries is None else index.queries.rows.max(initial=-1)
    return int(max(free, index.database.rows.max(initial=-1) + 1, queries + 1))


def _named(settings: RemoveSettings) -> list[bytes]:
    """The ids that are to be removed, each once."""
    names = [encode_id(name) for name in settings.ids]
    if settings.listed is not None:
        names += read_ids(settings.listed, "--ids")
    if not names:
        raise UsageError("no id to remove: give --id ID, or --ids FILE with an id a line")
    return list(dict.fromkeys(names))


def _unknown(path: Path, index: Index, missing: Sequence[bytes], count: int) -> str:
    name = decode_id(missing[0])
    hint = did_you_mean(name, index.items.nearest(name))
    return (
        f"{path} has no {_some(missing)} ({len(missing)} of {count} ids are unknown): {hint}nothing is removed; "
        "--ignore-missing takes such ids for removed"
    )


def _some(names: Sequence[bytes]) -> str:
    return ", ".join(repr(decode_id(name)) for name in names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _advise(path: Path, manifest: Manifest, index: Index) -> None:
    share = (manifest.added + manifest.removed) / len(index.items.stored)
    if share > _MANY or len(manifest.changes) > _FILES:
        log.info(
            "%d items were added or removed since %s was written (%.0f %% of its items, in %d changes): `sdc compact` "
            "merges them, and makes searches faster",
            manifest.added + manifest.removed, path, 100 * share, len(manifest.changes),
        )  # fmt: skip
