"""The file of one part: a safetensors file with the features, views and tokens of consecutive rows of the listing.

A header in the file's metadata says what the part is and what it holds, with a checksum of each array, and has a
checksum itself. So one array can be read and trusted without the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.extract.store import FEATURES
from sdc.files import atomic_write, checksum

ROWS = "kept"  # the name of the array of row numbers in the file


@dataclass(frozen=True)
class PartSummary:
    """What a whole part holds.

    Attributes:
        rows: (n,) int64, the listing's rows that its arrays belong to, ascending.
        skipped: (id, reason) of the others.
        kinds: the shape of a row and the dtype of each array.
    """

    rows: np.ndarray
    skipped: list[tuple[str, str]]
    kinds: dict[str, tuple[tuple[int, ...], str]]


def check_shapes(
    number: int, rows: range, embedded: np.ndarray, skipped: int, arrays: Mapping[str, np.ndarray]
) -> None:
    """Raises ValueError where a part's arrays do not fit the rows it is made of."""
    fits = arrays[FEATURES].ndim == 2 and len(embedded) == len(rows) - skipped
    fits = fits and all(len(array) == len(embedded) for array in arrays.values())
    ascending = (np.diff(embedded) > 0).all()
    inside = not len(embedded) or (rows.start <= embedded[0] and embedded[-1] < rows.stop and ascending)
    if not (fits and inside):
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"part {number}: {shapes} for {len(embedded)} embedded and {skipped} skipped of {rows}")


def write_part(
    path: Path,
    settings: str,
    number: int,
    rows: np.ndarray,
    skipped: list[tuple[str, str]],
    arrays: Mapping[str, np.ndarray],
) -> PartSummary:
    """Writes a part, atomically.

    Args:
        settings: fingerprint of what all parts have in common.
        arrays: each with an entry for each of `rows`.

    Raises:
        SdcError: no space, no permission.
    """
    import safetensors.numpy

    tensors = {name: np.ascontiguousarray(array) for name, array in {**arrays, ROWS: rows}.items()}
    entries = {name: [list(array.shape), array.dtype.str, checksum(array)] for name, array in tensors.items()}
    header = json.dumps({"settings": settings, "number": number, "skipped": skipped, "arrays": entries})
    data = safetensors.numpy.save(tensors, {"header": header, "checksum": checksum(header.encode())})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return _summary(rows, json.loads(header))


def read_part(path: Path, settings: str, number: int) -> PartSummary:
    """What a part holds, after every byte of it was compared with its checksum.

    Raises:
        FileNotFoundError: there is none.
        Exception: it is damaged, of other settings or another number: ValueError, or what safetensors raises.
    """
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        header = _header(file, settings, number)
        for name in header["arrays"]:
            _array(file, header, name)
        return _summary(_array(file, header, ROWS), header)


def read_part_array(path: Path, settings: str, number: int, name: str) -> np.ndarray:
    """One of a part's arrays, compared with its checksum.

    Raises:
        As `read_part`.
    """
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return _array(file, _header(file, settings, number), name)


def _header(file: Any, settings: str, number: int) -> dict[str, Any]:
    metadata = file.metadata() or {}
    text = metadata.get("header", "")
    if checksum(text.encode()) != metadata.get("checksum"):
        raise ValueError("its header does not fit its checksum")
    header: dict[str, Any] = json.loads(text)
    if header["settings"] != settings:
        raise ValueError("it is of other settings")
    if header["number"] != number:
        raise ValueError(f"it is part {header['number']}")
    return header


def _array(file: Any, header: Mapping[str, Any], name: str) -> np.ndarray:
    array: np.ndarray = file.get_tensor(name)
    if [list(array.shape), array.dtype.str, checksum(array)] != header["arrays"][name]:
        raise ValueError(f"{name} does not fit its checksum")
    return array


def _summary(rows: np.ndarray, header: Mapping[str, Any]) -> PartSummary:
    kinds = {name: (tuple(shape[1:]), dtype) for name, (shape, dtype, _) in header["arrays"].items() if name != ROWS}
    return PartSummary(rows, [(name, reason) for name, reason in header["skipped"]], kinds)
