"""The quantiles of the similarities in a file, `empirical:FILE`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.train.calibrations.base import Calibration, InverseCdf
from sdc.train.calibrations.similarity_file import read_similarities


class Empirical(Calibration):
    """A file that a model records with its checksum, `empirical:FILE#CHECKSUM`."""

    def inverse(self, spec: str) -> InverseCdf:
        """Hazen's quantiles, of which the table of as many levels as there are values is the sorted values themselves.

        Raises:
            SdcError: the file is missing, has changed, or holds something else than similarities.
        """
        path, recorded = _sealed(spec)
        values, checksum = read_similarities(path)
        if recorded and checksum != recorded:
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
