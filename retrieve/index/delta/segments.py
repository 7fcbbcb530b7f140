"""The files of changes beside a db.bin: what was added, what was removed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.files import atomic_write, checksum
from sdc.retrieve.index import file_format
from sdc.retrieve.index.delta.manifest import AGAIN, Change, Manifest, Part
from sdc.retrieve.index.delta.merged_view import MergedView
from sdc.retrieve.index.delta.tombstones import Tombstones
from sdc.retrieve.index.records import Records
from sdc.retrieve.index.sorted_rows import among, look_up


def read_changes(stored: Records, manifest: Manifest, folder: Path) -> MergedView:
    """The items of a db.bin after the changes that a manifest names.

    The files are verified in any case: all of them are read anyway.

    Args:
        stored: what db.bin has.

    Raises:
        SdcError: a file is missing, damaged, or does not fit to db.bin.
    """
    removed = [np.empty(0, np.int64), *(_read_removed(folder, change) for change in manifest.changes)]
    gone = np.unique(np.concatenate(removed))
    positions, present = look_up(stored.rows, gone)
    parts = [_read_added(folder, change, stored, gone) for change in manifest.changes if change.added]
    count = sum(map(len, parts))
    if int(present.sum()) + manifest.added - count != len(gone):
        raise SdcError(f"{folder} is damaged: it removes rows that the index never had; {AGAIN}")
    added = Records.joined([(part, np.ones(len(part), bool)) for part in parts]) if count else None
    return MergedView(stored, Tombstones(positions[present]), added)


def write_removed(folder: Path, change: Change, rows: np.ndarray) -> Part:
    """Writes the rows that a change removes."""
    data = np.asarray(rows, "<i8").tobytes()
    with atomic_write(folder / change.removed_name) as temporary:
        temporary.write_bytes(data)
    return Part(len(rows), checksum(data))


def _read_added(folder: Path, change: Change, stored: Records, gone: np.ndarray) -> Records:
    """What a change added, without the rows that are gone.

    It is a copy: each mapped file keeps a descriptor open, and there may be more changes than a process may have.
    """
    path, expected = folder / change.added_name, change.added
    assert expected is not None
    try:
        path.stat()
        content = file_format.read(path, verify=True)
    except FileNotFoundError:
        raise _missing(path) from None
    try:
        records = Records.of_arrays(content.codes, "database", content.arrays)
    except (KeyError, ValueError, UsageError) as error:
        raise SdcError(f"{path} is damaged: its arrays do not fit together ({error}); {AGAIN}") from None
    if (content.checksum, len(records)) != (expected.checksum, expected.count):
        raise SdcError(f"{path} is not the file that the manifest beside it names; {AGAIN}")
    for name in ("codes", "labels", "labels_coarse"):
        ours, theirs = getattr(records, name), getattr(stored, name)
        if (ours is None) != (theirs is None) or (ours is not None and ours.shape[1:] != theirs.shape[1:]):
            raise SdcError(f"{path} is damaged: its {name} are not like those of the index; {AGAIN}")
    return Records.joined([(records, ~among(records.rows, gone))])


def _read_removed(folder: Path, change: Change) -> np.ndarray:
    path, expected = folder / change.removed_name, change.removed
    if expected is None:
        return np.empty(0, np.int64)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise SdcError(f"cannot read {path}: {error.strerror}; the index cannot be read without it") from None
    if checksum(data) != expected.checksum or len(data) != 8 * expected.count:
        raise SdcError(f"{path} is damaged: its checksum does not match; {AGAIN}")
    return np.frombuffer(data, "<i8").astype(np.int64, copy=False)


def _missing(path: Path) -> SdcError:
    return SdcError(f"{path} is missing, but the manifest beside it names it: {AGAIN}")
