"""feats.h5.parts/: an extraction on its way, which a kill cannot hurt.

A part holds what was made of `part_rows` consecutive rows of the listing (features, and further views and tokens where
these were asked for) in a file that is immutable, checksummed and bound to the settings it was made with. Resuming
means making the parts that are missing; processes share the work by part numbers, see `sdc.extract.parts.claims`. When
all are there, feats.h5 is put together from them and they go.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.parts import part_file
from sdc.extract.parts.claims import alive, now
from sdc.extract.store import file_format
from sdc.extract.store.store import FEATURES, FeatureStore, Listing, finite_rows, write_features
from sdc.files import (
    atomic_write,
    check_same_settings,
    differing,
    explain_os_errors,
    fingerprint,
    machine,
    temporary,
    writable,
)

T = TypeVar("T")

ABANDONED = 3600.0  # seconds without a write after which a temporary file is nobody's, whatever its process id says


def settled(out: Path, provenance: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Whether `out` needs no making: it is there, whole and made with these settings.

    Also clears away what killed runs have left beside it.

    Raises:
        UsageError: it was made with other settings, and not `overwrite`.
        SdcError: it is no feature store or damaged, and not `overwrite`.
    """
    with explain_os_errors(out):
        _clean(out.parent, out.name)
        if not out.is_file():
            return False
    wanted = _comparable(provenance)
    try:
        found = _comparable(FeatureStore(out).provenance)
    except SdcError as error:
        if overwrite:
            return False
        raise SdcError(f"{error}, or --overwrite to replace it") from error
    if overwrite and found != wanted:
        return False
    check_same_settings(out, found, wanted)
    folder = parts_folder(out)
    if folder.is_dir() and _comparable(_manifest(folder).get("provenance", {})) == wanted:
        _remove(folder)
    return True


def parts_folder(out: Path) -> Path:
    """Where the parts of `out` are kept until it is whole."""
    return out.with_name(f"{out.name}.parts")


class Parts:
    """The resumable form of an extraction. `settled` is to be asked first.

    Args:
        out: the feats.h5 to be.
        listing: the candidates, in their order.
        provenance: as it will stand in feats.h5; all but `version` must be that of the parts found.
        part_rows: rows of the listing in a part.
        overwrite: throw away parts made with other settings instead of refusing.

    Raises:
        UsageError: there are parts of other settings; names each that differs.
        SdcError: the folder cannot be made or read.
    """

    def __init__(
        self, out: Path, listing: Listing, provenance: Mapping[str, Any], part_rows: int, *, overwrite: bool = False
    ) -> None:
        if part_rows < 1:
            raise UsageError(f"part-rows is {part_rows}, expected at least 1")
        if not listing.ids:
            raise SdcError(f"cannot write {out}: there is nothing to embed")
        self.out, self.listing, self.provenance, self.part_rows = Path(out), listing, provenance, part_rows
        writable(self.out)
        self.folder = parts_folder(self.out)
        self._seen: dict[int, part_file.Part] = {}  # parts known to be whole
        wanted = {"provenance": _comparable(provenance), "part_rows": part_rows, "listing": listing.digest()}
        self._settings = fingerprint(wanted)
        with explain_os_errors(self.out):
            self._begin(wanted, overwrite)

    def _begin(self, wanted: Mapping[str, Any], overwrite: bool) -> None:
        _clean(self.out.parent, self.out.name)
        found = _manifest(self.folder)
        different = differing(found, wanted) if found else []
        if different and not overwrite:
            raise UsageError(
                f"{self.folder} holds an unfinished run with other settings ({'; '.join(different)}). "
                "Finish it with those, choose another --out, or --overwrite to start again."
            )
        if different:
            _remove(self.folder, found)
        self.folder.mkdir(exist_ok=True)
        _clean(self.folder)
        if not found or different:
            with atomic_write(self.folder / "manifest.json") as temporary:
                temporary.write_text(json.dumps(wanted, ensure_ascii=False, indent=1), encoding="utf-8")
        done = len(self) - len(self.missing())
        if done:
            log.info("%s: %d of %d parts are there already", self.folder, done, len(self))

    def __len__(self) -> int:
        return -(-len(self.listing.ids) // self.part_rows)

    def rows(self, number: int) -> range:
        """The listing's rows that part `number` is made of."""
        return range(number * self.part_rows, min((number + 1) * self.part_rows, len(self.listing.ids)))

    def finished(self) -> bool:
        """Whether feats.h5 is there and its parts have gone, as the process leaves it that puts them together.

        Raises:
            SdcError: the parts have gone, but it is not there.
        """
        if self.folder.is_dir():
            return False
        if self.out.is_file():
            found = FeatureStore(self.out, verify=False).provenance
            if _comparable(found) == _comparable(self.provenance):
                return True
        raise SdcError(f"{self.folder} was removed while parts were made: run the same command again")

    def absent(self) -> list[int]:
        """The numbers of the parts that have no file; none where all is `finished`.

        Unlike `missing` it reads none of those that are there, which makes it cheap to be asked again and again.

        Raises:
            SdcError: as `finished`.
        """
        try:
            there = set(os.listdir(self.folder))
        except FileNotFoundError:
            if self.finished():
                return []
            raise
        return [number for number in range(len(self)) if self._path(number).name not in there]

    def has(self, number: int) -> bool:
        """Whether this part has a file."""
        return self._path(number).exists()

    def missing(self) -> list[int]:
        """The numbers of the parts still to be made. A damaged one is thrown away, and missing."""
        for number in range(len(self)):
            if number not in self._seen and self._path(number).exists():
                found = self._trusted(number, part_file.read)
                if found is not None:
                    self._seen[number] = found
        return [number for number in range(len(self)) if number not in self._seen]

    def write(
        self,
        number: int,
        features: np.ndarray,
        kept: np.ndarray,
        skipped: list[tuple[str, str]],
        further: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Writes one part, atomically. It is dropped where another process has finished meanwhile.

        Args:
            features: (n, d) float16 or float32.
            kept: (n,) the listing's rows (numbers within `rows(number)`, ascending) that they belong to.
            skipped: (id, reason) of each other row of `rows(number)`.
            further: more arrays of n rows by the names they have in feats.h5; the same ones in all parts.

        Raises:
            SdcError: values that are NaN or infinite, naming ids; no space, no permission.
        """
        kept = np.ascontiguousarray(kept, np.int64)
        rows = self.rows(number)
        arrays = {FEATURES: features, **(further or {})}
        fits = features.ndim == 2 and len(kept) == len(rows) - len(skipped)
        fits = fits and all(len(array) == len(kept) for array in arrays.values())
        inside = not len(kept) or (rows.start <= kept[0] and kept[-1] < rows.stop and (np.diff(kept) > 0).all())
        if not (fits and inside):
            shapes = {name: array.shape for name, array in arrays.items()}
            raise ValueError(f"part {number}: {shapes} for {len(kept)} kept and {len(skipped)} skipped of {rows}")
        self._check_finite(arrays, kept)
        try:
            self._seen[number] = part_file.write(self._path(number), self._settings, number, kept, skipped, arrays)
        except (SdcError, FileNotFoundError):
            if not self.finished():
                raise

    def assemble(self) -> Path:
        """Puts feats.h5 together, part by part, and removes the parts.

        Rows that were skipped are left out and listed, the splits renumbered.

        Raises:
            SdcError: parts are missing or damaged, nothing was kept, `out` cannot be written.
        """
        try:
            return self._assemble()
        except SdcError:
            if not self.folder.exists() and settled(self.out, self.provenance):
                return self.out  # another process was faster
            raise

    def _assemble(self) -> Path:
        missing = self.missing()
        if missing:
            count = f"{len(missing)} of {len(self)} parts"
            raise SdcError(f"{self.folder}: {count} are missing: run the same command again")
        parts = [self._seen[number] for number in range(len(self))]
        kinds = [found.kinds for found in parts if len(found.kept)]
        if any(other != kinds[0] for other in kinds):
            raise SdcError(f"{self.folder}: parts of different shapes and types: remove it and start again")
        listing = self.listing.select(np.concatenate([found.kept for found in parts]))
        skipped = [row for found in parts for row in found.skipped]
        columns = [
            file_format.Column(name, (len(listing.ids), *shape), np.dtype(dtype), self._blocks(name))
            for name, (shape, dtype) in (kinds or [{FEATURES: ((0,), "<f4")}])[0].items()
        ]
        features = columns.pop(0)
        if not listing.ids:
            _remove(self.folder)  # nothing to go on from
        write_features(
            self.out, listing, self.provenance, features.shape[1], features.dtype, features.blocks, skipped, columns
        )
        _remove(self.folder)
        return self.out

    def _blocks(self, name: str) -> Iterator[np.ndarray]:
        for number in range(len(self)):
            block = self._trusted(number, functools.partial(part_file.read_array, name=name))
            if block is None:
                raise SdcError(f"{self.folder}: part {number} was damaged or removed: run the same command again")
            if len(block):
                yield block

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _trusted(self, number: int, read: Callable[[Path, str, int], T]) -> T | None:
        """What `read` finds in a part that is whole and of these settings; else the part is thrown away."""
        path = self._path(number)
        try:
            return read(path, self._settings, number)
        except FileNotFoundError:
            return None  # another process is putting feats.h5 together
        except Exception as error:  # whatever the parsers make of damaged bytes
            log.warning("%s is thrown away, to be made again: %s", path, error)
        path.unlink(missing_ok=True)
        return None

    def _check_finite(self, arrays: Mapping[str, np.ndarray], kept: np.ndarray) -> None:
        whole = np.all([finite_rows(array) for array in arrays.values()], axis=0)
        bad = kept[~whole].tolist()
        if bad:
            names = ", ".join(repr(self.listing.ids[row]) for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
            raise SdcError(
                f"cannot write {self.out}: the features of {len(bad)} rows hold NaN or infinite values ({names}), "
                "expected finite ones: look at these inputs, or try another --device or weights"
            )


def _comparable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance as JSON would give it back, without what says nothing about the content."""
    return {key: value for key, value in json.loads(json.dumps(provenance)).items() if key != "version"}


def _manifest(folder: Path) -> dict[str, Any]:
    """The settings of the parts in `folder`, empty if it has none that can be read."""
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remove(folder: Path, manifest: Mapping[str, Any] | None = None) -> None:
    """Removes the parts. They lose their name first: a kill midway leaves no folder with some of them.

    Args:
        manifest: theirs. With another one they are those of a process that was faster, and stay.
    """
    aside = temporary(folder)
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another process was faster
    if manifest is not None and _manifest(aside) != manifest:
        aside.rename(folder)
        return
    shutil.rmtree(aside, ignore_errors=True)


def _clean(folder: Path, name: str = "") -> None:
    """Removes temporary files (those for `name` and its parts) whose process is gone or that are long abandoned."""
    if not folder.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(name)}.*?(?:\.([0-9a-f]{{8}}))?\.(\d+)\.tmp")
    for path in folder.iterdir():
        match = pattern.fullmatch(path.name)
        try:
            if match and (_gone(match[1], int(match[2])) or now(folder) - path.stat().st_mtime > ABANDONED):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        except OSError:
            continue  # its process has just finished, or it is another user's


def _gone(where: str | None, process: int) -> bool:
    """Whether a process of this machine has ended; of those of others one cannot tell."""
    return where in (None, machine()) and not alive(process)
