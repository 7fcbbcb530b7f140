"""Who makes which part: how processes, also of several hosts, share an extraction.

A claim is a file such as `000012.claim` beside the parts. It belongs to whoever gets to create it, who touches it as
long as it lives. Claims save double work, and nothing else rests on them: parts are atomic, and the same whoever makes
them. So the rare case that two processes take over the same claim at once is left as it is.
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

BEAT = 15.0  # seconds between two touches of a claim
STALE = 180.0  # seconds without one after which its owner counts as gone


class Claims:
    """The claims of this process in a folder of parts; as a context, it keeps them fresh and releases them all.

    A claim of another process is taken over where that one is gone: by its id, if it was one of this machine, and
    otherwise where it has not touched the claim for `STALE` seconds of the file system's clock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: set[Path] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for path in tuple(self._held):
            self._drop(path)

    def take(self, name: str) -> bool:
        """Whether the claim of this name is now ours. It is not where the folder is gone.

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
        """Gives a claim of ours back; it may have gone with the folder."""
        self._drop(self._path(name))

    def holders(self, names: Iterable[str]) -> Counter[str]:
        """Who holds how many of these claims; who it is in words. Those that nobody holds are not counted."""
        paths = map(self._path, names)
        return Counter(_owner(path) for path in paths if path.exists())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    def _created(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        self._held.add(path)
        try:
            content = {"host": platform.node(), "machine": machine(), "process": os.getpid()}
            os.write(descriptor, json.dumps(content).encode())
        finally:
            os.close(descriptor)
        return True

    def _stale(self, path: Path) -> bool:
        """Whether there is no claim any more, or its owner is gone."""
        try:
            touched, owner = path.stat().st_mtime, _read(path)
        except FileNotFoundError:
            return True
        if owner.get("machine") == machine():
            process = owner.get("process")
            if process == os.getpid() and path not in self._held:
                return True  # of a process before us that had our id
            if not (isinstance(process, int) and alive(process)):
                return True
        return now(self.folder) - touched > STALE

    def _drop(self, path: Path) -> None:
        self._held.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            for path in tuple(self._held):
                with contextlib.suppress(OSError):
                    os.utime(path)


def now(folder: Path) -> float:
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


def alive(process: int) -> bool:
    """Whether this machine has a process of this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _read(path: Path) -> dict[str, Any]:
    """Whose claim it is; nothing where that is not written yet."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _owner(path: Path) -> str:
    try:
        owner = _read(path)
    except OSError:
        owner = {}  # released just now
    return f"process {owner.get('process', '?')} of {owner.get('host', '?')}"
