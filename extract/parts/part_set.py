"""feats.h5.parts/: the finished parts of an extraction, which survive a kill.

A part holds the features (and views and tokens, where these were asked for) of `part_rows` consecutive rows of the
listing, in a file that is immutable, checksummed and bound to the settings it was made with. To resume means to make
the parts that are missing; processes share the work by part numbers, see `sdc.extract.parts.leases`. When all parts
are there, feats.h5 is put together from them, and they are removed.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.parts.leftovers import parts_folder, remove_abandoned, remove_abandoned_beside
from sdc.extract.parts.part_file import PartSummary, check_shapes, read_part, read_part_array, write_part
from sdc.extract.store import FEATURES, Column, FeatureStore, Listing, finite_rows, not_finite_error, write_features
from sdc.files import (
    atomic_write,
    check_same_settings,
    differing,
    explain_os_errors,
    fingerprint,
    json_text,
    temporary,
    writable,
)

T = TypeVar("T")


def is_up_to_date(out: Path, provenance: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Whether `out` is there already, whole and made with these settings, so that nothing has to be done.

    Also removes the temporary files of killed runs beside it.

    Raises:
        UsageError: it was made with other settings, and not `overwrite`.
        SdcError: it is no feature store or damaged, and not `overwrite`.
    """
    with explain_os_errors(out):
        remove_abandoned_beside(out)
        if not out.is_file():
            return False
    expected = _comparable(provenance)
    try:
        present = _comparable(FeatureStore(out).provenance)
    except SdcError as error:
        if overwrite:
            return False
        raise SdcError(f"{error}, or --overwrite to replace it") from error
    if overwrite and present != expected:
        return False
    check_same_settings(out, present, expected)
    folder = parts_folder(out)
    if folder.is_dir() and _comparable(_manifest(folder).get("provenance", {})) == expected:
        _remove(folder)
    return True


class Parts:
    """The parts of an extraction that can be resumed. Call `is_up_to_date` first.

    Args:
        out: the feats.h5 that is made of them.
        listing: what is to be extracted, in the order of feats.h5.
        provenance: as it will stand in feats.h5; parts that are there already must have the same but for `version`.
        part_rows: rows of the listing in a part.
        overwrite: remove parts made with other settings instead of refusing.

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
        self._whole: dict[int, PartSummary] = {}  # parts known to be whole
        manifest = {"provenance": _comparable(provenance), "part_rows": part_rows, "listing": listing.digest()}
        self._settings = fingerprint(manifest)
        with explain_os_errors(self.out):
            self._prepare_folder(manifest, overwrite)

    def _prepare_folder(self, manifest: Mapping[str, Any], overwrite: bool) -> None:
        remove_abandoned_beside(self.out)
        present = _manifest(self.folder)
        different = differing(present, manifest) if present else []
        if different and not overwrite:
            raise UsageError(
                f"{self.folder} holds an unfinished run with other settings ({'; '.join(different)}). "
                "Finish it with those, choose another --out, or --overwrite to start again."
            )
        if different:
            _remove(self.folder, present)
        self.folder.mkdir(exist_ok=True)
        remove_abandoned(self.folder)
        if not present or different:
            with atomic_write(self.folder / "manifest.json") as temporary:
                temporary.write_text(json_text(manifest, indent=1), encoding="utf-8")
        if done := len(self) - len(self.missing()):
            log.info("%s: %d of %d parts are there already", self.folder, done, len(self))

    def __len__(self) -> int:
        return -(-len(self.listing.ids) // self.part_rows)

    def rows(self, number: int) -> range:
        """The listing's rows that part `number` is made of."""
        return range(number * self.part_rows, min((number + 1) * self.part_rows, len(self.listing.ids)))

    def finished(self) -> bool:
        """Whether another process has put feats.h5 together and removed its parts.

        Raises:
            SdcError: the parts have gone, but it is not there.
        """
        if self.folder.is_dir():
            return False
        if self.out.is_file():
            present = FeatureStore(self.out, verify=False).provenance
            if _comparable(present) == _comparable(self.provenance):
                return True
        raise SdcError(f"{self.folder} was removed while parts were made: run the same command again")

    def absent(self) -> list[int]:
        """The numbers of the parts that have no file; empty where all is `finished`.

        Unlike `missing` it reads no part, so it is cheap to call again and again.

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
        """The numbers of the parts still to be made. A damaged one is removed, and counts as missing."""
        for number in range(len(self)):
            if number not in self._whole and self._path(number).exists():
                summary = self._read_or_remove(number, read_part)
                if summary is not None:
                    self._whole[number] = summary
        return [number for number in range(len(self)) if number not in self._whole]

    def write(
        self,
        number: int,
        features: np.ndarray,
        embedded: np.ndarray,
        skipped: list[tuple[str, str]],
        further: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Writes one part, atomically. Does nothing where another process has finished the whole meanwhile.

        Args:
            features: (n, d) float16 or float32.
            embedded: (n,) the listing's rows (numbers within `rows(number)`, ascending) that they belong to.
            skipped: (id, reason) of each other row of `rows(number)`.
            further: more arrays of n rows by the names they have in feats.h5; the same ones in all parts.

        Raises:
            SdcError: values that are NaN or infinite, naming ids; no space, no permission.
        """
        embedded = np.ascontiguousarray(embedded, np.int64)
        arrays = {FEATURES: features, **(further or {})}
        check_shapes(number, self.rows(number), embedded, len(skipped), arrays)
        self._check_finite(arrays, embedded)
        try:
            self._whole[number] = write_part(self._path(number), self._settings, number, embedded, skipped, arrays)
        except (SdcError, FileNotFoundError):
            if not self.finished():
                raise

    def assemble(self) -> Path:
        """Puts feats.h5 together, part by part, and removes the parts.

        Rows that were skipped are left out and listed, and the splits are renumbered.

        Raises:
            SdcError: parts are missing or damaged, all rows were skipped, `out` cannot be written.
        """
        try:
            return self._assemble()
        except SdcError:
            if not self.folder.exists() and is_up_to_date(self.out, self.provenance):
                return self.out  # another process was faster
            raise

    def _assemble(self) -> Path:
        missing = self.missing()
        if missing:
            counts = f"{len(missing)} of {len(self)}"
            raise SdcError(f"{self.folder}: {counts} parts are missing: run the same command again")
        parts = [self._whole[number] for number in range(len(self))]
        kinds = [part.kinds for part in parts if len(part.rows)]
        if any(other != kinds[0] for other in kinds):
            raise SdcError(f"{self.folder}: parts of different shapes and types: remove it and start again")
        listing = self.listing.select(np.concatenate([part.rows for part in parts]))
        skipped = [row for part in parts for row in part.skipped]
        columns = [
            Column(name, (len(listing.ids), *shape), np.dtype(dtype), self._blocks(name))
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
            block = self._read_or_remove(number, functools.partial(read_part_array, name=name))
            if block is None:
                raise SdcError(f"{self.folder}: part {number} was damaged or removed: run the same command again")
            if len(block):
                yield block

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _read_or_remove(self, number: int, read: Callable[[Path, str, int], T]) -> T | None:
        """What `read` returns of a part; None where the part is not there, or is damaged and therefore removed."""
        path = self._path(number)
        try:
            return read(path, self._settings, number)
        except FileNotFoundError:
            return None  # another process is putting feats.h5 together
        except Exception as error:  # whatever the parsers make of damaged bytes
            log.warning("%s is thrown away, to be made again: %s", path, error)
        path.unlink(missing_ok=True)
        return None

    def _check_finite(self, arrays: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        bad = rows[~np.all([finite_rows(array) for array in arrays.values()], axis=0)].tolist()
        if bad:
            what = f"the features of {len(bad)} rows hold NaN or infinite values"
            ids = [repr(self.listing.ids[row]) for row in bad[:5]]
            advice = "look at these inputs, or try another --device or weights"
            raise not_finite_error(self.out, what, ids, len(bad), advice)


def _comparable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance as it reads back from JSON, without `version`, which says nothing about the content."""
    return {key: value for key, value in json.loads(json.dumps(provenance)).items() if key != "version"}


def _manifest(folder: Path) -> dict[str, Any]:
    """The settings of the parts in `folder`; empty where they cannot be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _remove(folder: Path, manifest: Mapping[str, Any] | None = None) -> None:
    """Removes a folder of parts. It is renamed first, so that a kill midway leaves no folder with some of the parts.

    Args:
        manifest: of the parts to remove. Parts with another one are those of a process that was faster, and stay.
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
