"""One part of an extraction: a safetensors file of the arrays that were made of some rows of the listing.

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

from sdc.files import atomic_write, checksum

KEPT = "kept"  # the name under which the rows' numbers stand among the arrays


@dataclass(frozen=True)
class Part:
    """What is known of a whole part.

    Attributes:
        kept: the listing's rows that it has arrays of, ascending.
        skipped: (id, reason) of the others.
        kinds: of each array the shape of a row, and the dtype.
    """

    kept: np.ndarray
    skipped: list[tuple[str, str]]
    kinds: dict[str, tuple[tuple[int, ...], str]]


def write(
    path: Path,
    settings: str,
    number: int,
    kept: np.ndarray,
    skipped: list[tuple[str, str]],
    arrays: Mapping[str, np.ndarray],
) -> Part:
    """Writes a part, atomically.

    Args:
        settings: fingerprint of what all parts have in common.
        arrays: each with a row for each of `kept`.

    Raises:
        SdcError: no space, no permission.
    """
    import safetensors.numpy

    tensors = {name: np.ascontiguousarray(array) for name, array in {**arrays, KEPT: kept}.items()}
    entries = {name: [list(array.shape), array.dtype.str, checksum(array)] for name, array in tensors.items()}
    header = json.dumps({"settings": settings, "number": number, "skipped": skipped, "arrays": entries})
    data = safetensors.numpy.save(tensors, {"header": header, "checksum": checksum(header.encode())})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return _part(kept, json.loads(header))


def read(path: Path, settings: str, number: int) -> Part:
    """What a part holds, every byte of it compared with its checksum.

    Raises:
        FileNotFoundError: there is none.
        Exception: it is damaged, of other settings or another number: ValueError, or what safetensors raises.
    """
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        header = _header(file, settings, number)
        for name in header["arrays"]:
            _array(file, header, name)
        return _part(_array(file, header, KEPT), header)


def read_array(path: Path, settings: str, number: int, name: str) -> np.ndarray:
    """One of a part's arrays, compared with its checksum.

    Raises:
        As `read`.
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


def _part(kept: np.ndarray, header: Mapping[str, Any]) -> Part:
    kinds = {name: (tuple(shape[1:]), dtype) for name, (shape, dtype, _) in header["arrays"].items() if name != KEPT}
    return Part(kept, [(name, reason) for name, reason in header["skipped"]], kinds)
