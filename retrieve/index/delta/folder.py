"""The folder db.bin.changes: who may write in it, and which of its files count."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdc.errors import SdcError, log
from sdc.files import linked_file, sync
from sdc.retrieve.index.delta import manifest
from sdc.retrieve.index.delta.manifest import NAME, Identity, Manifest

LOCK = "lock"
COMPACTED = "compacted.bin"  # a new db.bin that is being written
_OURS = (".added.bin", ".removed.bin", ".tmp", COMPACTED)  # how the names of files end that a killed writer leaves


def changes_folder(index: Path) -> Path:
    """The folder of a db.bin's changes; where db.bin is a link, it is beside the file that it leads to."""
    index = linked_file(index)
    return index.parent / f"{index.name}.changes"


def manifest_identity(index: Path) -> Identity:
    """Which file the manifest of a db.bin's changes is; None where there is none."""
    return manifest.identity(changes_folder(index) / NAME)


@contextlib.contextmanager
def locked(index: Path) -> Iterator[Path]:
    """Yields the folder, made if need be, while nobody else writes in it; an empty one goes afterwards.

    Raises:
        SdcError: no permission, or a full disk.
    """
    folder = changes_folder(index)
    try:
        descriptor = _acquire(folder)
    except OSError as error:
        raise SdcError(
            f"cannot write in {folder}: {error.strerror}; what changes an index goes there, beside its db.bin"
        ) from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # an empty folder that stays does no harm
            if os.listdir(folder) == [LOCK]:
                os.unlink(folder / LOCK)
                os.rmdir(folder)
        os.close(descriptor)


def _acquire(folder: Path) -> int:
    import fcntl  # not everywhere: whoever only reads does without

    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
            sync(folder.parent)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(folder) and not folder.is_dir():
                raise SdcError(f"{folder} is no folder, but the changes of an index go there: move it away") from None
            continue  # the one who wrote last has removed the folder just now
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("%s is being changed by another process: waiting for it", folder.with_suffix(""))
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked_file, present = manifest.identity_of(os.fstat(descriptor)), manifest.identity(folder / LOCK)
        except BaseException:
            os.close(descriptor)
            raise
        if locked_file == present:
            return descriptor
        os.close(descriptor)  # of a folder that is gone


def tidy(folder: Path, current: Manifest | None) -> None:
    """Removes what does not count: a manifest that is past, and files that the current one does not name."""
    if current is None and (folder / NAME).exists():
        os.unlink(folder / NAME)
        sync(folder)
    named = {name for change in current.changes for name in change.names} if current else set()
    for name in sorted(os.listdir(folder)):
        if name.endswith(_OURS) and name not in named:
            os.unlink(folder / name)


@contextlib.contextmanager
def superseded(index: Path) -> Iterator[dict[str, Any]]:
    """Around the replacement of a db.bin by one that was made without its changes.

    Yields:
        What the new file's metadata has to say beside its own, so that with its renaming the changes are past.
    """
    index = linked_file(index)
    if not (index.exists() or changes_folder(index).exists()):
        yield {}
        return
    with locked(index) as folder:
        try:
            past, _ = manifest.read_manifest(folder)
        except SdcError as error:
            log.warning("%s", error)
            past = None
            tidy(folder, None)  # it can't be told which db.bin it was of
        if past is not None:
            log.info(
                "%s is replaced, and with it its changes: %d added, %d removed (%s)",
                index, past.added, past.removed, folder,
            )  # fmt: skip
        yield {} if past is None else follows(past, merged=False)
        tidy(folder, None)


def follows(past: Manifest, *, merged: bool) -> dict[str, Any]:
    """The metadata of a db.bin that takes the place of another one, whose changes are merged into it or dropped."""
    changes = {"changes": "merged", "next_row": past.next_row} if merged else {"changes": "dropped"}
    return {"follows": {"base": past.base, "generation": past.generation, **changes}}
