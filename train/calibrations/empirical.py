"""The quantiles of the similarities in a file, `empirical:FILE`."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.files import checksum, require_file
from sdc.train.calibrations.base import Calibration, InverseCdf

SLACK = 1e-5  # by which rounding may carry a cosine beyond ±1


class Empirical(Calibration):
    """A file that a model records with its checksum, `empirical:FILE#CHECKSUM`."""

    def inverse(self, spec: str) -> InverseCdf:
        """Hazen's quantiles, of which the table of as many levels as there are values is the sorted values themselves.

        Raises:
            SdcError: the file is missing, has changed, or holds something else than similarities.
        """
        path, recorded = _sealed(spec)
        values, content = read_similarities(path)
        if recorded and content != recorded:
            raise SdcError(
                f"{path} has changed since {spec!r} was recorded; give back the former file, or name the new one"
            )
        return lambda levels: (np.quantile(values, levels, method="hazen") + 1) / 2

    def canonical(self, spec: str, bits: int) -> str:
        """The text with the file's checksum. One that has it stays as it is: a model outlives the file."""
        path, recorded = _sealed(spec)
        return spec if recorded else super().canonical(f"{spec}#{read_similarities(path)[1]}", bits)


def _sealed(spec: str) -> tuple[Path, str]:
    """The file of `empirical:FILE` or `empirical:FILE#CHECKSUM`, and the checksum or nothing."""
    parts = re.fullmatch(r"empirical:(.+?)(?:#([0-9a-f]{16}))?", spec)
    if parts is None:
        raise UsageError(
            f"calibration {spec!r}: expected empirical:FILE, similarities in [-1, 1] as npy or text, one number a line"
        )
    return Path(parts[1]), parts[2] or ""


def read_similarities(path: Path) -> tuple[np.ndarray, str]:
    """The similarities (n,) float64 in a file, and the checksum of its bytes.

    Raises:
        SdcError: there is no such file, or it holds something else than numbers in [−1, 1].
    """
    data = require_file(path, "file of similarities", f"numpy.save({path.name!r}, similarities)").read_bytes()
    values = _read_npy(path, data) if data.startswith(b"\x93NUMPY") else _read_text(path, data)
    if not len(values):
        raise SdcError(f"{path} is empty, expected similarities in [-1, 1]")
    bad = np.flatnonzero(~(np.abs(values) <= 1 + SLACK))
    if len(bad):
        raise SdcError(
            f"{path}: {len(bad)} of {len(values)} numbers are no similarities in [-1, 1], such as number {bad[0] + 1}, "
            f"which is {values[bad[0]]:g}"
        )
    return values, checksum(data)


def _read_npy(path: Path, data: bytes) -> np.ndarray:
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise SdcError(f"{path} is no readable npy file ({error}); expected a vector of similarities") from None
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise SdcError(f"{path} holds {values.dtype} of shape {values.shape}, expected a vector of similarities (n,)")
    return np.asarray(values, np.float64)


def _read_text(path: Path, data: bytes) -> np.ndarray:
    numbers = []
    for place, line in enumerate(data.splitlines(), 1):
        try:
            numbers += [float(line)] if line.strip() else []
        except ValueError:
            raise SdcError(
                f"{path}, line {place}: {line[:40].decode(errors='replace')!r} is not a number; expected npy, or text "
                "with one similarity a line"
            ) from None
    return np.array(numbers, np.float64)
