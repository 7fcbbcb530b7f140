"""The file format of feats.h5: contiguous HDF5 datasets, and root attributes with checksums of every byte of them.

Attributes: `schema`; `provenance` (JSON); `checksums` (JSON: dataset -> shape, dtype, rows of a block, XXH3 of each
block of rows); `fingerprint`, which covers the other three. Behind HDF5's end of file stands a seal
(`sdc.extract.store.seal`). HDF5 itself notices no flipped bit.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sdc.errors import SdcError
from sdc.extract.store.seal import append_seal, check_seal, has_seal
from sdc.files import ChunkChecksums, checksum, fingerprint, json_text

SCHEMA = 1
PACKED_SCHEMA = 2  # where ids or what was skipped are packed: older sdc would misread them
SIGNATURE = b"\x89HDF\r\n\x1a\n"
MOST_BLOCKS = 1000  # checksums of a dataset: keeps the attribute small however many rows there are
BLOCK_BYTES = 1 << 18  # at least so much under one checksum: below it the calls cost more than the hashing
ALIGNMENT = 64  # of every dataset, so that maps of them are aligned arrays
REMAKE = "make it again, or copy it again from where it came"


@dataclass(frozen=True)
class StoredArray:
    """Where a dataset's bytes lie, and what they must be."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: int  # rows of a checksummed block
    checksums: list[str]

    def map(self, file: BinaryIO) -> np.ndarray:
        """A read-only memory map of the dataset in the open `file`, which may be closed afterwards."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.memmap(file, self.dtype, "r", self.offset, self.shape)


def read_layout(file: BinaryIO, path: Path) -> tuple[dict[str, Any], dict[str, StoredArray]]:
    """The attributes, and where each dataset lies; checked against each other and against the file's size.

    HDF5 reads through the open file: it takes no lock, and it is done with the file on return.

    Raises:
        SdcError: not HDF5, not a feature store, of another schema, truncated, damaged attributes.
    """
    import h5py

    size = os.fstat(file.fileno()).st_size
    if file.read(len(SIGNATURE)) != SIGNATURE:
        what = "is not an HDF5 file" if size else "is empty"
        raise SdcError(f"{path} {what}, expected a feature store: `sdc import` makes one from vectors in other formats")
    try:
        sealed = has_seal(file)
        if sealed:
            check_seal(file)
        with h5py.File(file, "r") as h5:
            attributes = _attributes(h5, path, sealed=sealed)
            return attributes, {
                name: _stored_array(h5[name], entry, size) for name, entry in attributes["checksums"].items()
            }
    except SdcError:
        raise
    except Exception as error:  # whatever HDF5 and JSON make of damaged bytes
        reason = " ".join(str(error).split())[:160]
        raise SdcError(f"{path} is truncated or damaged ({reason}): {REMAKE}") from error


def _attributes(h5: Any, path: Path, *, sealed: bool) -> dict[str, Any]:
    if "schema" not in h5.attrs:
        holds = ", ".join(list(h5)[:8]) or "nothing"
        raise SdcError(
            f"{path} is an HDF5 file but not a feature store (no schema attribute; it holds {holds}): "
            f"`sdc import {path}` makes one from it"
        )
    if not sealed:
        raise SdcError(f"{path} is truncated, or was changed by other software (its seal is missing): {REMAKE}")
    schema = int(h5.attrs["schema"])
    if schema not in (SCHEMA, PACKED_SCHEMA):
        raise SdcError(
            f"{path} is a feature store of schema {schema}, this sdc reads schema {SCHEMA} and {PACKED_SCHEMA}: "
            f"use the sdc that wrote it, or bring its vectors over with `sdc import {path}`"
        )
    attributes = {"schema": schema, **{name: json.loads(h5.attrs[name]) for name in ("provenance", "checksums")}}
    if fingerprint(attributes) != h5.attrs["fingerprint"]:
        raise SdcError(f"{path} is damaged: its attributes do not fit their checksum: {REMAKE}")
    return {**attributes, "fingerprint": h5.attrs["fingerprint"]}


def _stored_array(dataset: Any, entry: Mapping[str, Any], size: int) -> StoredArray:
    """Raises ValueError where HDF5 finds another dataset than was written."""
    shape_and_dtype = [list(dataset.shape), _spelled(dataset.dtype)]
    if shape_and_dtype != [entry["shape"], entry["dtype"]]:
        raise ValueError(f"{dataset.name}: found {shape_and_dtype}, expected {[entry['shape'], entry['dtype']]}")
    offset = dataset.id.get_offset()  # None where it isn't contiguous, or has no bytes
    if dataset.size and (offset is None or offset + dataset.nbytes > size):
        raise ValueError(f"{dataset.name} does not lie within the {size} bytes of the file")
    return StoredArray(offset or 0, dataset.shape, np.dtype(dataset.dtype), entry["rows"], entry["xxh3"])


def _spelled(dtype: np.dtype[Any]) -> Any:
    """A dtype as JSON: "<f2", or {"id": "|S8", ...}."""
    if dtype.fields:
        return {name: kind[0].str for name, kind in dtype.fields.items()}
    return dtype.str


def verify_checksums(path: Path, arrays: Mapping[str, np.ndarray], datasets: Mapping[str, StoredArray]) -> None:
    """Compares every block of rows with its checksum.

    Raises:
        SdcError: naming the dataset and the rows of the first block that is damaged.
    """

    def damaged(job: tuple[str, int, str]) -> bool:
        name, start, expected = job
        return checksum(arrays[name][start : start + datasets[name].rows]) != expected

    jobs = [
        (name, number * dataset.rows, expected)
        for name, dataset in datasets.items()
        for number, expected in enumerate(dataset.checksums)
    ]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for (name, start, _), bad in zip(jobs, pool.map(damaged, jobs), strict=True):
            if bad:
                pool.shutdown(cancel_futures=True)
                last = min(start + datasets[name].rows, len(arrays[name])) - 1
                raise SdcError(f"{path} is damaged in /{name}, rows {start} to {last}: {REMAKE}")


@dataclass(frozen=True)
class Column:
    """A dataset to be written: blocks of rows that together have `shape`; `packed` if it is texts end to end."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Iterable[np.ndarray]
    packed: bool = False


def write_columns(path: Path, columns: Sequence[Column], provenance: Mapping[str, Any]) -> None:
    """Writes a whole file, block by block. The same content gives the same bytes.

    Raises:
        OSError: the first write that the system refused.
    """
    import h5py

    schema = PACKED_SCHEMA if any(column.packed for column in columns) else SCHEMA
    with _Output(path) as output:
        try:
            with h5py.File(output, "w", alignment_threshold=1, alignment_interval=ALIGNMENT) as h5:
                checksums = {column.name: _write_column(h5, column, output) for column in columns}
                extents = [_extent(h5[column.name]) for column in columns]
                attributes = {"schema": schema, "provenance": dict(provenance), "checksums": checksums}
                h5.attrs["schema"] = schema
                h5.attrs["provenance"] = json_text(provenance)
                h5.attrs["checksums"] = json.dumps(checksums)
                h5.attrs["fingerprint"] = fingerprint(json.loads(json.dumps(attributes)))
            append_seal(output, extents)
        finally:
            output.check()


def _write_column(h5: Any, column: Column, output: _Output) -> dict[str, Any]:
    stored = _stored(column.dtype)
    dataset = h5.create_dataset(column.name, column.shape, stored)
    row_bytes = column.dtype.itemsize * int(np.prod(column.shape[1:]))
    rows = max(1, -(-column.shape[0] // MOST_BLOCKS), BLOCK_BYTES // row_bytes)
    checksums = ChunkChecksums(rows * row_bytes)
    written = 0
    for block in column.blocks:
        whole = np.ascontiguousarray(block, column.dtype)
        dataset[written : written + len(whole)] = whole.view(stored)
        output.check()
        checksums.update(whole.reshape(-1).view(np.uint8).data)
        written += len(whole)
    if written != column.shape[0]:
        raise ValueError(f"{column.name}: {written} rows came, {column.shape[0]} were announced")
    digests = [f"{digest:016x}" for digest in checksums.finish()]
    return {"shape": list(column.shape), "dtype": _spelled(column.dtype), "rows": rows, "xxh3": digests}


def _extent(dataset: Any) -> tuple[int, int]:
    offset = dataset.id.get_offset() or 0
    return offset, offset + dataset.nbytes


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype with its text marked as UTF-8 for HDF5."""
    import h5py

    if dtype.fields:
        return np.dtype([(name, _stored(kind[0])) for name, kind in dtype.fields.items()])
    return np.dtype(h5py.string_dtype("utf-8", dtype.itemsize)) if dtype.kind == "S" else dtype


class _Output(io.FileIO):
    """A file whose writes never fail while HDF5 is at work: HDF5 may crash the process when it closes after a failure.

    The first failure is kept for `check`, and nothing is written after it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None

    def check(self) -> None:
        """Raises the failure, if there was one."""
        if self.failure is not None:
            raise self.failure

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        while len(rest) and self.failure is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.failure = error
        return len(memoryview(data).cast("B"))

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.failure is None else 0
        except OSError as error:
            self.failure = error
            return 0
