"""Files of every stage: atomic writes, checksums, fingerprints, and one-line errors about paths.

Nothing here knows a stage. A file of ours is whole or absent: it is written under a temporary name in
its own folder, flushed to disk and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from sdc.errors import SdcError, UsageError, log

_FINGERPRINT = re.compile("[0-9a-f]{32}")


def checksum(data: Any) -> str:
    """XXH3 (64 bit) of a bytes-like object, as 16 hex digits. Runs at memory speed."""
    return xxhash.xxh3_64_hexdigest(data)


class ChunkChecksums:
    """XXH3 (64 bit) of each `size` bytes of a stream that comes in pieces of any length."""

    def __init__(self, size: int) -> None:
        self._size, self._filled = size, 0
        self._state = xxhash.xxh3_64()
        self._done: list[int] = []

    def update(self, data: Any) -> None:
        """Takes the next piece, a contiguous bytes-like object."""
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else view[:0]  # an empty one of several dimensions cannot be cast
        while len(view):
            piece = view[: self._size - self._filled]
            self._state.update(piece)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == self._size:
                self._end_chunk()

    def finish(self) -> list[int]:
        """The checksum of each chunk; the last chunk may be shorter."""
        if self._filled:
            self._end_chunk()
        return self._done

    def _end_chunk(self) -> None:
        self._done.append(self._state.intdigest())
        self._state.reset()
        self._filled = 0


def json_text(value: Any, **options: Any) -> str:
    """A value as JSON. What is no UTF-8 in the name of a file, which Python keeps as surrogates, is escaped.

    Args:
        options: further ones of `json.dumps`.
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def fingerprint(fields: Mapping[str, Any]) -> str:
    """XXH3 (128 bit) of a JSON-able mapping in canonical form, as 32 hex digits."""
    text = json_text(fields, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a JSON file with a checksum of it, under `checksum`."""
    return {**content, "checksum": fingerprint(content)}


def unseal(content: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `seal`; raises ValueError where the checksum does not match, KeyError where there is none."""
    if content.pop("checksum") != fingerprint(content):
        raise ValueError("its checksum does not match")
    return content


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The leaves in which two nested mappings differ, each as "name: found X, wanted Y"."""
    rows = []
    for key in sorted({*found, *wanted}):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            rows += differing(a, b, f"{prefix}{key}.")
        elif a != b:
            rows.append(f"{prefix}{key}: found {_short(a)}, wanted {_short(b)}")
    return rows


def _short(value: Any) -> str:
    if isinstance(value, str) and _FINGERPRINT.fullmatch(value):
        return f"{value[:8]}…"  # enough to tell two apart
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def check_same_settings(out: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Accepts an existing, whole output if its settings, `found`, are the `wanted` ones.

    Raises:
        UsageError: the settings differ; the message names each that does.
    """
    different = differing(found, wanted)
    if different:
        raise UsageError(
            f"{out} exists and was made with other settings ({'; '.join(different)}). "
            "Choose another --out, or --overwrite to replace it."
        )
    log.info("%s is there already, whole and made with these settings: nothing to do", out)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success its file is synced and takes `path`'s place.

    On any failure the temporary file goes and `path` stays as it was. Where `path` is a link, all this is about the
    file that it leads to.

    Raises:
        UsageError, SdcError: as `writable`; or the disk is full.
    """
    writable(path)
    path = linked_file(Path(path))
    aside = temporary(path)
    try:
        with explain_os_errors(path):
            yield aside
            sync(aside)
            os.replace(aside, path)
            sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def temporary(path: Path) -> Path:
    """A hidden name beside `path` that no other process uses, not even of another host that shares the folder."""
    return path.with_name(f".{path.name}.{machine()}.{os.getpid()}.tmp")


def linked_file(path: Path) -> Path:
    """The file that links at `path` lead to, there or not; folders stay as they are named. Of a circle, one of it."""
    with contextlib.suppress(PermissionError):  # whoever opens it is told so
        for _ in range(40):  # as many as Linux follows
            if not path.is_symlink():
                break
            path = path.parent / os.readlink(path)
    return path


@functools.cache
def machine() -> str:
    """8 hex digits that name this host since its start, or this container: process ids are unique within it."""
    marks = [platform.node()]
    with contextlib.suppress(OSError):  # where there is no /proc
        with open("/proc/sys/kernel/random/boot_id") as file:
            marks.append(file.read())
        marks.append(os.readlink("/proc/self/ns/pid"))
    return checksum("\n".join(marks).encode())[:8]


def writable(path: Path, *sources: Path) -> None:
    """Refuses an output that could not be written. Call it before any work is done for it.

    Args:
        sources: the files it is made from, which it must not replace.

    Raises:
        UsageError: `path` is a folder, a device or the like, or one of `sources`.
        SdcError: its folder is missing, or may not be written to.
    """
    path = linked_file(Path(path))
    with explain_os_errors(path):
        if path.is_symlink():
            raise UsageError(f"{path} is a link that leads to itself: remove it, or choose another --out")
        if path.is_dir():
            raise UsageError(f"{path} is a folder: --out must name a file")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is no regular file, and is not replaced by one: choose another --out")
        if not path.parent.is_dir():
            raise SdcError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise SdcError(f"cannot write {path}: no permission in the folder {path.parent}; choose another --out")
        for source in sources:
            if path.exists() and path.samefile(source):
                raise UsageError(f"{path} is read here and would be replaced: choose another --out")


def check_output_folder(folder: Path, main: str, command: str, own: Collection[str] | None) -> None:
    """Refuses a folder that a command could not, or should not, fill. Call it before any work is done for it.

    Args:
        main: the name of the file in it by which the command knows its own folders.
        command: whose results go there, for the message.
        own: the names of all that it puts there; None allows any others beside them.

    Raises:
        UsageError: `folder` is a file, or holds something else.
        SdcError: it, or the folder to make it in, may not be written to.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UsageError(f"{folder} is a file: --out must name a folder")
        writable(folder)
        return
    foreign = set() if own is None else {path.name for path in folder.iterdir() if path.name[0] != "."}.difference(own)
    if foreign:
        raise UsageError(
            f"{folder} holds other files, such as {min(foreign)}: --out must name a new or empty folder, or one of "
            f"{command}'s"
        )
    writable(folder / main)


@contextlib.contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals about `path` into one-line errors."""
    try:
        yield
    except OSError as error:
        text = str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            raise SdcError(f"cannot write {path}: the disk is full; free some space or choose another --out") from error
        if error.errno == errno.EFBIG:
            raise SdcError(
                f"cannot write {path}: larger than a file may be here (see `ulimit -f`); choose another --out"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise SdcError(
                f"cannot write {path}: no permission ({os.strerror(error.errno)}); choose another --out"
            ) from error
        raise


def sync(path: Path) -> None:
    """Flushes a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_file(path: Path, what: str, make: str) -> Path:
    """`path` if it is a readable file; `make` is the command that would make it.

    Raises:
        SdcError: there is no such file, or it may not be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise SdcError(f"{path} is a folder, expected {what}")
        if not path.exists():
            raise SdcError(f"no {what} at {path}: make one with `{make}`, or name another file")
        if not path.is_file():
            raise SdcError(f"{path} is no regular file, expected {what}")
        readable = os.access(path, os.R_OK)
    except PermissionError:  # its folder may not be searched
        readable = False
    if not readable:
        raise SdcError(f"cannot read {path}: no permission; get it, or name another file")
    return path
