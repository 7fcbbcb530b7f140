"""HDF5 files, with groups of any depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdc.extract.readers.table import Table, block_rows
from sdc.extract.store import OFFSETS, PackedIds


def read_hdf5(path: Path) -> list[Table]:
    """The datasets of numbers or texts, by their paths in the file."""
    import h5py

    tables: list[Table] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim and not item.dtype.fields:
            if f"{name}{OFFSETS}" in item.file:
                shape = (len(item.file[name + OFFSETS]) - 1,)
                tables.append(Table(name, shape, "object", lambda: _packed_texts(path, name)))
                return
            text = h5py.check_string_dtype(item.dtype) is not None
            if text or item.dtype.kind in "fiub":
                kind = "object" if text else item.dtype.name
                tables.append(Table(name, item.shape, kind, lambda: _hdf5_blocks(path, name, text)))

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    return tables


def _hdf5_blocks(path: Path, name: str, text: bool) -> Iterator[np.ndarray]:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        dataset = file[name]
        step = block_rows(dataset.shape, 64 if text else dataset.dtype.itemsize)
        rows = dataset.asstr() if text else dataset
        for start in range(0, dataset.shape[0], step):
            yield rows[start : start + step]


def _packed_texts(path: Path, name: str) -> Iterator[np.ndarray]:
    """Texts that a feature store holds end to end."""
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        packed = PackedIds(file[name][:], file[name + OFFSETS][:])
    yield np.array(packed[:], object)
