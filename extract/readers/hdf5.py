"""HDF5 files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdc.extract.readers.table import Table, _step


def _hdf5(path: Path) -> list[Table]:
    import h5py

    found: list[Table] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim and not item.dtype.fields:
            text = h5py.check_string_dtype(item.dtype) is not None
            if text or item.dtype.kind in "fiub":
                kind = "object" if text else item.dtype.name
                found.append(Table(name, item.shape, kind, lambda: _hdf5_blocks(path, name, text)))

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    return found


def _hdf5_blocks(path: Path, name: str, text: bool) -> Iterator[np.ndarray]:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        dataset = file[name]
        step = _step(dataset.shape, 64 if text else dataset.dtype.itemsize)
        rows = dataset.asstr() if text else dataset
        for start in range(0, dataset.shape[0], step):
            yield rows[start : start + step]
