"""How db.bin and its changes are opened, while others may be changing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.retrieve.index import file_format, ivf
from sdc.retrieve.index.delta import folder, manifest, merged_search
from sdc.retrieve.index.delta.manifest import Identity, Manifest
from sdc.retrieve.index.delta.merged_view import MergedView
from sdc.retrieve.index.flat import FlatSearcher
from sdc.retrieve.index.records import Records
from sdc.retrieve.index.searcher import StoredSearcher

_ATTEMPTS = 10  # at opening files that are replaced meanwhile


class Opened(NamedTuple):
    """What the constructor of `sdc.retrieve.index.Index` takes."""

    searcher: StoredSearcher | merged_search.MergedSearcher
    items: MergedView
    queries: Records | None
    metadata: Mapping[str, Any]
    path: Path
    trailer: str | None
    files: tuple[Identity, Identity]


def read_index(path: Path, *, verify: bool, nprobe: int | None) -> Opened:
    """Opens a db.bin with its changes, all of one state; for what may be raised see `Index.open`."""
    for _ in range(_ATTEMPTS):
        before = identities(path)
        try:
            found = _opened(path, before[0], verify=verify, nprobe=nprobe)
        except SdcError:
            if identities(path) == before:
                raise
            continue  # compaction may have removed what was being read
        # A manifest may be newer by now, which does no harm: all that the one before it names is still there.
        if manifest.identity(path) == before[0]:
            return found
    raise SdcError(f"{path} was replaced {_ATTEMPTS} times while it was being opened; try again")


def identities(path: Path) -> tuple[Identity, Identity]:
    """Of db.bin and of the manifest beside it."""
    return manifest.identity(path), manifest.identity(folder.of(path) / manifest.NAME)


def _opened(path: Path, identity: Identity, *, verify: bool, nprobe: int | None) -> Opened:
    held = file_format.read(path, verify=verify)
    try:
        database, queries = _entries(held)
    except (KeyError, UsageError) as error:
        raise SdcError(f"{path} is damaged: its arrays do not fit together ({error})") from None
    if held.checksum is None:
        log.warning("%s was written by plain FAISS: nothing vouches for its content, ids are positions", path)
    if nprobe is not None and held.lists is None:
        raise UsageError(f"--nprobe is for an index of type ivf, but {path} is flat: its search is exact")
    changes, seen = _changes(path, held)
    beside = folder.of(path)
    live = MergedView(database) if changes is None else MergedView.read(database, changes, beside)
    if not len(live):
        raise SdcError(f"{path} holds no codes, expected at least one: there is nothing to search in it")
    base = FlatSearcher(database.codes) if held.lists is None else ivf.mapped(path, database.codes, nprobe)
    if changes is None:
        return Opened(base, live, queries, held.metadata, path, held.checksum, (identity, seen))
    sources = [*held.metadata.get("sources", []), *map(asdict, changes.sources)]
    metadata = {**held.metadata, "count": len(live), **({"sources": sources} if sources else {})}
    queries = None if queries is None else live.without_removed(queries)
    return Opened(
        merged_search.MergedSearcher(base, live), live, queries, metadata, path, held.checksum, (identity, seen)
    )


def _entries(held: file_format.Container) -> tuple[Records, Records | None]:
    if held.checksum is None:
        return Records(held.codes, np.arange(len(held.codes), dtype=np.int64)), None
    database = Records.of_arrays(held.codes, "database", held.arrays)
    if "queries.codes" not in held.arrays:
        return database, None
    return database, Records.of_arrays(held.arrays["queries.codes"], "queries", held.arrays)


def _changes(path: Path, held: file_format.Container) -> tuple[Manifest | None, Identity]:
    """What has been changed since a db.bin was written, and which file says so; None where nothing has."""
    beside = folder.of(path)
    found, seen = manifest.read(beside)
    if found is None or found.contained(held.metadata):
        return None, seen
    if found.base != held.checksum:
        raise SdcError(
            f"{beside} holds changes of another db.bin ({found.base}) than {path} is ({held.checksum}): put that one "
            f"back, or do without its changes by removing {beside}"
        )
    return found, seen
