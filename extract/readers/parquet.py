"""Parquet, Feather and Arrow files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdc.errors import SdcError
from sdc.extract.readers.arrow_columns import arrow_tables
from sdc.extract.readers.table import ContentError, Table

READ_AHEAD = 32 << 20  # bytes, of all columns that are read at once


def read_parquet(path: Path) -> list[Table]:
    """The columns of a Parquet file.

    Raises:
        SdcError: pyarrow is not installed.
    """
    _need_pyarrow(path)
    import pyarrow.parquet as parquet

    def batches(columns: Sequence[str], step: int) -> Iterator[Any]:
        # By default whole row groups are read ahead into memory, often the whole file.
        ahead = min(1 << 20, max(1 << 14, READ_AHEAD // len(columns)))
        with parquet.ParquetFile(path, buffer_size=ahead, pre_buffer=False) as file:
            yield from file.iter_batches(step, columns=list(columns))

    with parquet.ParquetFile(path) as file:
        return arrow_tables(file.schema_arrow, file.metadata.num_rows, batches)


def read_arrow(path: Path) -> list[Table]:
    """The columns of a Feather file (version 2) or an Arrow file, in either of Arrow's formats, file and stream.

    Raises:
        SdcError: pyarrow is not installed.
    """
    _need_pyarrow(path)
    import pyarrow as arrow
    from pyarrow import ipc

    with path.open("rb") as file:
        magic = file.read(6)
    if magic[:4] == b"FEA1":
        raise ContentError("it is of version 1 of Feather, which is not read: save it with version=2")
    seekable = magic == b"ARROW1"

    def open_columns(source: Any, columns: Sequence[int]) -> Iterator[Any]:
        options = ipc.IpcReadOptions(included_fields=list(columns))
        if not seekable:
            yield from ipc.open_stream(source, options=options)
            return
        reader = ipc.open_file(source, options=options)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)

    def batches(columns: Sequence[str], step: int) -> Iterator[Any]:
        with arrow.memory_map(str(path)) as source:
            for batch in open_columns(source, [schema.get_field_index(name) for name in columns]):
                for start in range(0, batch.num_rows, step):
                    yield batch.slice(start, step)

    with arrow.memory_map(str(path)) as source:
        schema = (ipc.open_file if seekable else ipc.open_stream)(source).schema
    return arrow_tables(schema, _rows(path, schema, seekable, open_columns), batches)


def _rows(path: Path, schema: Any, seekable: bool, open_columns: Any) -> int:
    """How many rows an Arrow file has. A stream says so nowhere: it is passed through by one column."""
    import pyarrow as arrow

    if seekable:
        from pyarrow import dataset

        return int(dataset.dataset(str(path), format="ipc").count_rows())
    plain = next((place for place, field in enumerate(schema) if not field.type.num_fields), 0)
    with arrow.memory_map(str(path)) as source:
        return sum(batch.num_rows for batch in open_columns(source, [plain]))


def _need_pyarrow(path: Path) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise SdcError(
            f"cannot read {path}: {path.suffix[1:]} needs pyarrow; pip install 'sdc-hash[parquet]'"
        ) from error
