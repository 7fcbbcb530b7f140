"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError
from sdc.extract.readers.table import Table, block_rows


def read_parquet(path: Path) -> list[Table]:
    """The columns of numbers, of texts, or of lists of one length.

    Raises:
        SdcError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise SdcError(f"cannot read {path}: parquet needs pyarrow; pip install 'sdc-hash[parquet]'") from error
    with parquet.ParquetFile(path) as file:
        columns = [_parquet_column(path, column, file.metadata.num_rows) for column in file.schema_arrow]
    return [column for column in columns if column is not None]


def _parquet_column(path: Path, column: Any, rows: int) -> Table | None:
    from pyarrow import types

    kind = column.type
    shape: tuple[int, ...] = (rows,)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        first = next(_parquet_blocks(path, column.name, 1), np.empty((0, 0)))
        kind, shape = kind.value_type, (rows, first.shape[1])
    if types.is_string(kind) or types.is_large_string(kind):
        dtype = "object"
    elif types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind):
        dtype = np.dtype(kind.to_pandas_dtype()).name
    else:
        return None
    return Table(column.name, shape, dtype, lambda: _parquet_blocks(path, column.name, block_rows(shape, 8)))


def _parquet_blocks(path: Path, column: str, step: int) -> Iterator[np.ndarray]:
    import pyarrow.parquet as parquet

    done = 0
    # By default whole row groups are read ahead into memory, often the whole file.
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(step, columns=[column]):
            yield _arrow_rows(batch.column(0), column, done)
            done += batch.num_rows


def _arrow_rows(values: Any, column: str, start: int) -> np.ndarray:
    """A batch of a column as (n,) or (n, d); all lists in it have the length of the first."""
    if values.null_count:
        row = start + values.is_null().to_pylist().index(True)
        raise ValueError(f"column {column} has no value in row {row}")
    if not hasattr(values, "flatten"):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    flat = values.flatten()
    lengths = np.asarray(values.value_lengths())
    odd = np.flatnonzero(lengths != lengths[0])
    if odd.size or flat.null_count:
        where = "empty values"
        if odd.size:
            where = f"{lengths[odd[0]]} values in row {start + odd[0]} and {lengths[0]} in row {start}"
        raise ValueError(f"column {column} holds {where}, expected the same number in each")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(values), int(lengths[0]))
