"""HDF5 files, with groups of any depth."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import shortened
from sdc.extract.readers.single_rows import gather_rows
from sdc.extract.readers.table import ContentError, Table, block_rows, unreadable
from sdc.extract.store import OFFSETS, PackedIds
from sdc.progress import Progress

# Filters that HDF5 does not bring along, by their registered numbers.
FILTERS = {
    307: "bzip2", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd",
    32017: "sz", 32018: "fcidecomp", 32024: "sz3", 32026: "blosc2", 32028: "sperr",
}  # fmt: skip


def read_hdf5(path: Path) -> list[Table]:
    """The datasets of numbers or texts, by their paths in the file; a group a row is read as rows."""
    import h5py

    tables: list[Table] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            tables.append(_table(path, name, item))
            progress.total = progress.done + 1  # nothing says how many there are
            progress.advance()

    with h5py.File(path, "r", locking=False) as file, Progress("look for arrays", 1, "arrays") as progress:
        file.visititems(visit)
    return gather_rows(_unpacked(path, tables), lambda names: _arrays(path, names))


def _unpacked(path: Path, tables: list[Table]) -> list[Table]:
    """The tables, of which two that hold texts as a feature store packs them are one."""
    by_name = {table.name: table for table in tables}
    offsets = {
        name: each
        for name, table in by_name.items()
        if table.dtype == "uint8" and (each := by_name.get(name + OFFSETS)) is not None and each.dtype == "int64"
    }
    texts = {
        name: Table(name, (each.shape[0] - 1,), "object", functools.partial(_packed_texts, path, name))
        for name, each in offsets.items()
    }
    return [texts.get(table.name, table) for table in tables if all(table is not each for each in offsets.values())]


def _table(path: Path, name: str, dataset: Any) -> Table:
    import h5py

    if dataset.shape is None:
        return unreadable(name, (0,), "empty", "is an empty dataset")
    text = h5py.check_string_dtype(dataset.dtype) is not None
    if not text and dataset.dtype.kind not in "fiub":
        kind = "records" if dataset.dtype.fields else str(dataset.dtype)
        return unreadable(name, dataset.shape, kind, f"holds {kind}: save plain numbers or text")
    missing = _missing_filter(dataset)
    if missing:
        return unreadable(
            name, dataset.shape, dataset.dtype.name,
            f"is compressed with a filter that is not installed ({missing}): pip install hdf5plugin, or save it "
            "uncompressed",
        )  # fmt: skip
    kind = "object" if text else dataset.dtype.name
    return Table(name, dataset.shape, kind, lambda: _blocks(path, name, text))


def _missing_filter(dataset: Any) -> str:
    """The filter without which a dataset cannot be read; empty where all are there."""
    import h5py

    properties = dataset.id.get_create_plist()
    for place in range(properties.get_nfilters()):
        number, _, _, name = properties.get_filter(place)
        if h5py.h5z.filter_avail(number):
            continue
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # brings the filters along
        if not h5py.h5z.filter_avail(number):
            return f"{FILTERS.get(number) or name.decode(errors='replace') or 'unknown'}, number {number}"
    return ""


def _blocks(path: Path, name: str, text: bool) -> Iterator[np.ndarray]:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        dataset = file[name]
        step = block_rows(dataset.shape, 64 if text else dataset.dtype.itemsize)
        for start in range(0, dataset.shape[0], step):
            block = dataset[start : start + step]
            yield _decoded(block, name, start) if text else block


def _decoded(block: np.ndarray, name: str, start: int) -> np.ndarray:
    """Texts from bytes, as UTF-8: files say ASCII of it."""
    texts = np.empty(block.shape, object)
    for place, value in enumerate(block.ravel().tolist()):
        try:
            texts.flat[place] = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as error:
            row = start + place * len(block) // block.size
            raise ContentError(f"{name}: {shortened(repr(value), 40)} in row {row} is not UTF-8 text") from error
    return texts


def _arrays(path: Path, names: Sequence[str]) -> Iterator[np.ndarray]:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        for name in names:
            array = np.asarray(file[name][()])
            yield _decoded(array.reshape(-1), name, 0).reshape(array.shape) if array.dtype.kind in "OS" else array


def _packed_texts(path: Path, name: str) -> Iterator[np.ndarray]:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        packed = PackedIds(file[name][:], file[name + OFFSETS][:])
    yield np.array(packed[:], object)
