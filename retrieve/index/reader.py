"""How db.bin and its changes are opened, while others may be changing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.retrieve.index import file_format
from sdc.retrieve.index.delta import (
    Identity,
    Manifest,
    MergedSearcher,
    MergedView,
    changes_folder,
    identity,
    manifest_identity,
    read_changes,
    read_manifest,
)
from sdc.retrieve.index.index_types import IndexType, Searcher, load_index_types
from sdc.retrieve.index.records import Records

_ATTEMPTS = 10  # at opening files that are replaced meanwhile


class StoredIndex(NamedTuple):
    """What the constructor of `sdc.retrieve.index.Index` takes."""

    searcher: Searcher
    index_type: IndexType
    items: MergedView
    queries: Records | None
    metadata: Mapping[str, Any]
    path: Path
    checksum: str | None
    changes: Manifest | None
    files: tuple[Identity, Identity]


def read_index(path: Path, *, verify: bool, options: Mapping[str, Any]) -> StoredIndex:
    """Opens a db.bin with its changes, all of one state; for what may be raised see `Index.open`."""
    for _ in range(_ATTEMPTS):
        before = identities(path)
        try:
            index = _read_once(path, before[0], verify=verify, options=options)
        except SdcError:
            if identities(path) == before:
                raise
            continue  # compaction may have removed what was being read
        # A manifest may be newer by now, which does no harm: all that the one before it names is still there.
        if identity(path) == before[0]:
            return index
    raise SdcError(f"{path} was replaced {_ATTEMPTS} times while it was being opened; try again")


def identities(path: Path) -> tuple[Identity, Identity]:
    """Of db.bin and of the manifest beside it."""
    return identity(path), manifest_identity(path)


def _read_once(path: Path, file: Identity, *, verify: bool, options: Mapping[str, Any]) -> StoredIndex:
    content = file_format.read(path, verify=verify)
    try:
        database, queries = _records(content)
    except (KeyError, ValueError, UsageError) as error:
        raise SdcError(f"{path} is damaged: its arrays do not fit together ({error})") from None
    if content.checksum is None:
        log.warning("%s was written by plain FAISS: nothing vouches for its content, ids are positions", path)
    options = {name: value for name, value in options.items() if value is not None}
    _check_options(path, content.index_type, options)
    changes, manifest_file = _changes(path, content)
    items = MergedView(database)
    if changes is not None:
        items = read_changes(database, changes, changes_folder(path))
    if not len(items):
        raise SdcError(f"{path} holds no codes, expected at least one: there is nothing to search in it")
    base = content.index_type.open(path, database.codes, options)
    searcher: Searcher = base
    metadata = content.metadata
    if changes is not None:
        sources = [*metadata.get("sources", []), *map(asdict, changes.sources)]
        metadata = {**metadata, "count": len(items), **({"sources": sources} if sources else {})}
        queries = None if queries is None else items.without_removed(queries)
        added = None if items.added is None else items.added.codes
        searcher = MergedSearcher(base, len(database), items.tombstones, added)
    files = file, manifest_file
    return StoredIndex(searcher, content.index_type, items, queries, metadata, path, content.checksum, changes, files)


def _check_options(path: Path, index_type: IndexType, options: Mapping[str, Any]) -> None:
    """Raises UsageError where a search option is none of the type's."""
    for name in options:
        if name not in index_type.options:
            types = load_index_types()
            owners = " or ".join(each.name for each in types if name in each.options)
            if not owners:
                raise unknown_name_error("search option", name, [known for each in types for known in each.options])
            reason = ": its search is exact" if index_type.exact else ""
            raise UsageError(f"--{name} is for an index of type {owners}, but {path} is {index_type.name}{reason}")


def _records(content: file_format.Container) -> tuple[Records, Records | None]:
    """The database and the query split."""
    if content.checksum is None:
        return Records(content.codes, np.arange(len(content.codes), dtype=np.int64)), None
    database = Records.of_arrays(content.codes, "database", content.arrays)
    if "queries.codes" not in content.arrays:
        return database, None
    return database, Records.of_arrays(content.arrays["queries.codes"], "queries", content.arrays)


def _changes(path: Path, content: file_format.Container) -> tuple[Manifest | None, Identity]:
    """What has been changed since a db.bin was written, and which file says so; None where nothing has."""
    beside = changes_folder(path)
    changes, file = read_manifest(beside)
    if changes is None or changes.contained(content.metadata):
        return None, file
    if changes.base != content.checksum:
        raise SdcError(
            f"{beside} holds changes of another db.bin ({changes.base}) than {path} is ({content.checksum}): put that "
            f"one back, or do without its changes by removing {beside}"
        )
    return changes, file
