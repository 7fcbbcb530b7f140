"""feats.h5.parts/: an extraction on its way, which a kill cannot hurt.

A part holds the features of `part_rows` consecutive rows of the listing in a safetensors file that is immutable,
checksummed and bound to the settings it was made with. Resuming means making the parts that are missing; processes
may share the work by part numbers. When all are there, feats.h5 is put together from them and they go.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from sdc.artifacts import SdcError, UsageError, describing, differing, fingerprint, log, replacing, settle, writable
from sdc.extract.store import FeatureStore, Listing, write_features

ABANDONED = 3600.0  # seconds without a write after which a temporary file is nobody's, whatever its process id says


def settled(out: Path, provenance: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Whether `out` needs no making: it is there, whole and made with these settings.

    Also clears away what killed runs have left beside it.

    Raises:
        UsageError: it was made with other settings, and not `overwrite`.
        SdcError: it is no feature store or damaged, and not `overwrite`.
    """
    with describing(out):
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
    settle(out, found, wanted)
    folder = parts_folder(out)
    if folder.is_dir() and _comparable(_manifest(folder).get("provenance", {})) == wanted:
        _remove(folder)
    return True


def parts_folder(out: Path) -> Path:
    """Where the parts of `out` are kept until it is whole."""
    return out.with_name(f"{out.name}.parts")


@dataclass(frozen=True)
class _Part:
    """What a part holds, but for the features themselves."""

    kept: np.ndarray  # rows of the listing, ascending
    skipped: list[tuple[str, str]]
    dimension: int
    dtype: np.dtype[Any]


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
        self._seen: dict[int, _Part] = {}  # parts known to be whole
        wanted = {"provenance": _comparable(provenance), "part_rows": part_rows, "listing": listing.digest()}
        self._settings = fingerprint(wanted)
        with describing(self.out):
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
            _remove(self.folder)
        self.folder.mkdir(exist_ok=True)
        _clean(self.folder)
        if not found or different:
            with replacing(self.folder / "manifest.json") as temporary:
                temporary.write_text(json.dumps(wanted, ensure_ascii=False, indent=1), encoding="utf-8")
        done = len(self) - len(self.missing())
        if done:
            log.info("%s: %d of %d parts are there already", self.folder, done, len(self))

    def __len__(self) -> int:
        return -(-len(self.listing.ids) // self.part_rows)

    def rows(self, number: int) -> range:
        """The listing's rows that part `number` is made of."""
        return range(number * self.part_rows, min((number + 1) * self.part_rows, len(self.listing.ids)))

    def missing(self) -> list[int]:
        """The numbers of the parts still to be made. A damaged one is thrown away, and missing."""
        for number in range(len(self)):
            if number not in self._seen and self._path(number).exists():
                part = self._read(number)
                if part is not None:
                    self._seen[number] = part[0]
        return [number for number in range(len(self)) if number not in self._seen]

    def write(self, number: int, features: np.ndarray, kept: np.ndarray, skipped: list[tuple[str, str]]) -> None:
        """Writes one part, atomically.

        Args:
            features: (n, d) float16 or float32.
            kept: (n,) the listing's rows (numbers within `rows(number)`, ascending) that they belong to.
            skipped: (id, reason) of each other row of `rows(number)`.

        Raises:
            SdcError: values that are NaN or infinite, naming ids; no space, no permission.
        """
        import safetensors.numpy

        kept = np.ascontiguousarray(kept, np.int64)
        rows = self.rows(number)
        fits = features.ndim == 2 and len(features) == len(kept) == len(rows) - len(skipped)
        inside = not len(kept) or (rows.start <= kept[0] and kept[-1] < rows.stop and (np.diff(kept) > 0).all())
        if not (fits and inside):
            raise ValueError(
                f"part {number}: {features.shape} features for {len(kept)} kept and {len(skipped)} skipped of {rows}"
            )
        features = np.ascontiguousarray(features)
        self._check_finite(features, kept)
        part = _Part(kept, skipped, features.shape[1], features.dtype)
        metadata = {
            "settings": self._settings, "skipped": json.dumps(skipped),
            "checksum": self._checksum(number, part, features),
        }  # fmt: skip
        data = safetensors.numpy.save({"features": features, "kept": kept}, metadata)
        with replacing(self._path(number)) as temporary:
            temporary.write_bytes(data)
        self._seen[number] = part

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
        kinds = sorted({(part.dimension, part.dtype.str) for part in parts if len(part.kept)})
        if len(kinds) > 1:
            raise SdcError(f"{self.folder}: parts of different shapes and types {kinds}: remove it and start again")
        dimension, dtype = kinds[0] if kinds else (0, "<f4")
        listing = self.listing.select(np.concatenate([part.kept for part in parts]))
        skipped = [row for part in parts for row in part.skipped]
        write_features(self.out, listing, self.provenance, dimension, dtype, self._features(), skipped)
        _remove(self.folder)
        return self.out

    def _features(self) -> Iterator[np.ndarray]:
        for number in range(len(self)):
            part = self._read(number)
            if part is None:
                raise SdcError(f"{self.folder}: part {number} was damaged or removed: run the same command again")
            if len(part[1]):
                yield part[1]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _read(self, number: int) -> tuple[_Part, np.ndarray] | None:
        """A part and its features if it is whole and of these settings; else it is thrown away."""
        from safetensors import safe_open

        path = self._path(number)
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata()
                features, kept = file.get_tensor("features"), file.get_tensor("kept")
            skipped = [(name, reason) for name, reason in json.loads(metadata["skipped"])]
            part = _Part(kept, skipped, features.shape[1], features.dtype)
            whole = metadata["checksum"] == self._checksum(number, part, features)
            if whole and metadata["settings"] == self._settings:
                return part, features
            reason = "it is of other settings" if whole else "its checksum does not fit"
        except FileNotFoundError:
            return None  # another process is putting feats.h5 together
        except Exception as error:  # whatever the parsers make of damaged bytes
            reason = str(error)
        log.warning("%s is thrown away, to be made again: %s", path, reason)
        path.unlink(missing_ok=True)
        return None

    def _checksum(self, number: int, part: _Part, features: np.ndarray) -> str:
        header = [self._settings, number, features.shape, features.dtype.str, part.kept.dtype.str, part.skipped]
        state = xxhash.xxh3_64(json.dumps(header).encode())
        state.update(part.kept.data)
        state.update(features.data)
        return state.hexdigest()

    def _check_finite(self, features: np.ndarray, kept: np.ndarray) -> None:
        bad = kept[~np.isfinite(features).all(axis=1)].tolist()
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


def _remove(folder: Path) -> None:
    """Removes the parts. They lose their name first: a kill midway leaves no folder with some of them."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another process was faster
    shutil.rmtree(aside, ignore_errors=True)


def _clean(folder: Path, name: str = "") -> None:
    """Removes temporary files (those for `name` and its parts) whose process is gone or that are long abandoned."""
    if not folder.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(name)}.*\.(\d+)\.tmp")
    for path in folder.iterdir():
        match = pattern.fullmatch(path.name)
        try:
            if match and (not _alive(int(match[1])) or time.time() - path.stat().st_mtime > ABANDONED):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        except (FileNotFoundError, PermissionError):
            continue  # its process has just finished, or it is another user's


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
