"""The folder of a grid: a file for each finished cell in cells/, the settings, and tables of the results.

A finished cell is kept and not computed again: a run that is killed loses the cells under way.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdc._version import __version__
from sdc.errors import SdcError, UsageError, log
from sdc.experiments.grid import Cell
from sdc.files import atomic_write, check_output_folder, check_same_settings, differing, explain_os_errors, json_text

CELLS, SETTINGS, CSV, TABLE = "cells", "settings.json", "results.csv", "results.md"


@dataclass(frozen=True)
class GridFolder:
    """The folder in which a command keeps a grid.

    Attributes:
        path: the folder.
        command: whose it is, as `sdc ablate`.
        drawn: names of results beside `CSV` and `TABLE` that need not all be there.
        sources: names of what else the command puts there, which outlives its settings.
    """

    path: Path
    command: str
    drawn: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def cells(self) -> Path:
        return self.path / CELLS

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder if need be, and keeps others from filling it meanwhile.

        Raises:
            UsageError: it is a file, holds something else, or is being filled by another run.
            SdcError: it cannot be made or written to.
        """
        import fcntl  # not everywhere: whoever only asks for --help does without

        out = self.path
        known = (out / SETTINGS).exists()  # a folder of ours may hold what its owner has put there as well
        check_output_folder(
            out, SETTINGS, self.command, None if known else {CELLS, CSV, TABLE, *self.drawn, *self.sources}
        )
        with explain_os_errors(out):
            self.cells.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(out, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UsageError(
                f"{out} is being filled by another {self.command}: wait for it, or choose another --out"
            ) from None
        finally:
            os.close(descriptor)

    def remaining(
        self, cells: Sequence[Cell], expected: Mapping[str, Any], *, overwrite: bool
    ) -> dict[str, Cell] | None:
        """The cells to compute, by name; None where all is there. Records the settings of a new folder.

        Says how many cells are kept, and warns where another version of sdc computed some of them.

        Raises:
            UsageError: the folder is of other settings than `expected`, and not `overwrite`.
        """
        out, recorded = self.path, self.path / SETTINGS
        for path in self.cells.glob(".*"):  # of cells that were under way when a run was killed
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        names = {cell.name: cell for cell in cells}
        remaining = {name: cell for name, cell in names.items() if not self._file(name).exists()}
        if recorded.exists():
            recorded_settings = {name: value for name, value in _read(recorded).items() if name != "version"}
            whole = not remaining and all((out / name).exists() for name in (CSV, TABLE))
            different = differing(recorded_settings, expected)
            if not overwrite and (whole or different):
                check_same_settings(out, recorded_settings, expected)
                self._warn_of_versions(names)
                return None
            if different:
                self._clear(names)
        with atomic_write(recorded) as temporary:
            temporary.write_text(json_text({**expected, "version": __version__}, indent=1), encoding="utf-8")
        if len(remaining) < len(names):
            log.info(
                "%s: %d cells are there and kept, %d are left to compute",
                out,
                len(names) - len(remaining),
                len(remaining),
            )
            self._warn_of_versions(names.keys() - remaining.keys())
        return remaining

    def read_cells(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """The content of each finished cell's file, see `sdc.experiments.jobs.compute`."""
        return [_read(self._file(cell.name)) for cell in cells]

    def _file(self, name: str) -> Path:
        return self.cells / f"{name}.json"

    def _clear(self, names: Mapping[str, Cell]) -> None:
        """Removes what was made with other settings."""
        for name in (CSV, TABLE, *self.drawn):
            (self.path / name).unlink(missing_ok=True)
        for path in self.cells.iterdir():
            if path.stem not in names:
                path.unlink()

    def _warn_of_versions(self, names: Iterable[str]) -> None:
        versions = [str(_read(self._file(name)).get("version")) for name in names]
        others = [version for version in versions if version != __version__]
        if others:
            log.warning(
                "%s: %d of these cells were computed by sdc %s, this is %s: remove %s to compute them anew",
                self.path, len(others), " and ".join(sorted({*others})), __version__, self.cells,
            )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise SdcError(f"{path} is damaged: remove it, and run the command again") from None
    return content
