"""Leases on parts, by which processes, also on several hosts, share an extraction.

A lease is a file such as `000012.claim` beside the parts. It belongs to the process that creates it, which touches it
as long as it lives. Leases only avoid double work: parts are atomic, and the same whichever process makes them. So the
rare case that two processes take over the same lease at once needs no care.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from sdc.errors import log
from sdc.files import explain_os_errors, machine, temporary

BEAT = 15.0  # seconds between two touches of a lease
STALE = 180.0  # seconds without one after which its owner counts as gone


class Leases:
    """The leases of this process in a folder of parts. As a context it keeps them fresh, and releases them at its end.

    A lease of another process is taken over where that process is gone: by its id, if it ran on this machine, and
    otherwise where it has not touched the lease for `STALE` seconds of the file system's clock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ours: set[Path] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for path in tuple(self._ours):
            self._drop(path)

    def take(self, name: str) -> bool:
        """Takes the lease of this name, if it is free; returns whether it did. Where the folder is gone it does not.

        Raises:
            SdcError: no space, no permission.
        """
        path = self._path(name)
        try:
            with explain_os_errors(path):
                if self._created(path):
                    return True
                if not self._stale(path):
                    return False
                log.info("%s: %s is gone, its %s is taken over", self.folder, _owner(path), path.name)
                path.unlink(missing_ok=True)
                return self._created(path)
        except FileNotFoundError:
            return False

    def release(self, name: str) -> None:
        """Gives up a lease of ours; its file may have gone with the folder."""
        self._drop(self._path(name))

    def holders(self, names: Iterable[str]) -> Counter[str]:
        """How many of these leases each process holds, the process in words. Free ones are not counted."""
        paths = map(self._path, names)
        return Counter(_owner(path) for path in paths if path.exists())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    def _created(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        self._ours.add(path)
        try:
            content = {"host": platform.node(), "machine": machine(), "process": os.getpid()}
            os.write(descriptor, json.dumps(content).encode())
        finally:
            os.close(descriptor)
        return True

    def _stale(self, path: Path) -> bool:
        """Whether the lease is free again, or its owner is gone."""
        try:
            touched, owner = path.stat().st_mtime, _read(path)
        except FileNotFoundError:
            return True
        if owner.get("machine") == machine():
            process = owner.get("process")
            if process == os.getpid() and path not in self._ours:
                return True  # an earlier process had our id
            if not (isinstance(process, int) and is_alive(process)):
                return True
        return file_system_time(self.folder) - touched > STALE

    def _drop(self, path: Path) -> None:
        self._ours.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            for path in tuple(self._ours):
                with contextlib.suppress(OSError):
                    os.utime(path)


def file_system_time(folder: Path) -> float:
    """The time by the clock that dates the files of this folder, which may be another host's.

    Raises:
        OSError: nothing can be written there.
    """
    probe = temporary(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether this machine has a process of this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _read(path: Path) -> dict[str, Any]:
    """The owner of a lease; empty where that is not written yet."""
    try:
        owner = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _owner(path: Path) -> str:
    try:
        owner = _read(path)
    except OSError:
        owner = {}  # released just now
    return f"process {owner.get('process', '?')} of {owner.get('host', '?')}"
