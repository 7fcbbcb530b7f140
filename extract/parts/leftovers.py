"""What an extraction puts beside its output until that is whole, and what killed processes leave of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sdc.extract.parts.leases import file_system_time, is_alive
from sdc.files import linked_file, machine

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


def parts_folder(out: Path) -> Path:
    """The folder of the parts of `out`, which is there until `out` is whole."""
    place = linked_file(out)
    return place.with_name(f"{place.name}.parts")


def remove_abandoned_beside(out: Path) -> None:
    """Removes such files of an output; of a link, where the file lies that it leads to."""
    place = linked_file(out)
    remove_abandoned(place.parent, place.name)


def _has_ended(where: str | None, process: int) -> bool:
    """Whether a process of this machine has ended; False for other machines, whose processes cannot be seen."""
    return where in (None, machine()) and not is_alive(process)
