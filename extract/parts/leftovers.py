"""Temporary files that killed processes leave behind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sdc.extract.parts.leases import file_system_time, is_alive
from sdc.files import machine

ABANDONED = 3600.0  # seconds without a write after which a temporary file is nobody's, whatever its process id says


def remove_abandoned(folder: Path, name: str = "") -> None:
    """Removes temporary files (of `name` and its parts) whose process is gone, or that are older than `ABANDONED`."""
    if not folder.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(name)}.*?(?:\.([0-9a-f]{{8}}))?\.(\d+)\.tmp")
    for path in folder.iterdir():
        match = pattern.fullmatch(path.name)
        try:
            if match and (
                _has_ended(match[1], int(match[2])) or file_system_time(folder) - path.stat().st_mtime > ABANDONED
            ):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        except OSError:
            continue  # its process has just finished, or it is another user's


def _has_ended(where: str | None, process: int) -> bool:
    """Whether a process of this machine has ended; False for other machines, whose processes cannot be seen."""
    return where in (None, machine()) and not is_alive(process)
