"""The formats of vectors that can be read, by the ending of a file's name.

`read_tables` says what a file holds; nothing is read into memory before its blocks are asked for, and nothing but
tensors and plain values is unpickled. A new format is a module with a function, and a line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sdc.errors import UsageError
from sdc.extract.readers.fvecs import read_bvecs, read_fvecs
from sdc.extract.readers.hdf5 import read_hdf5
from sdc.extract.readers.npy import read_npy, read_npz
from sdc.extract.readers.parquet import read_parquet
from sdc.extract.readers.safetensors import read_safetensors
from sdc.extract.readers.table import Table, one_line_errors
from sdc.extract.readers.torch_save import read_torch_save
from sdc.inputs import utf8_path

READERS: dict[str, Callable[[Path], list[Table]]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".parquet": read_parquet,
    ".safetensors": read_safetensors,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".fvecs": read_fvecs,
    ".bvecs": read_bvecs,
    ".pt": read_torch_save,
    ".pth": read_torch_save,
}


def read_tables(path: Path) -> list[Table]:
    """The named arrays of a file.

    Raises:
        UsageError: no reader is known for the name's ending.
        SdcError: the file is not what its ending says, is truncated, or holds pickled objects. Reading
            blocks raises it too.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        hint = " (pickled files are never loaded)" if path.suffix.lower() in (".pkl", ".pickle") else ""
        raise UsageError(
            f"cannot read {path}: unknown kind of file {path.suffix!r}{hint}, expected one of {', '.join(READERS)}"
        )
    with one_line_errors(path):
        tables = reader(utf8_path(path))
    return [Table(table.name, table.shape, table.dtype, _with_one_line_errors(path, table.blocks)) for table in tables]


def _with_one_line_errors(path: Path, blocks: Callable[[], Iterator[np.ndarray]]) -> Callable[[], Iterator[np.ndarray]]:
    def read() -> Iterator[np.ndarray]:
        with one_line_errors(path):
            source = blocks()
        while True:
            with one_line_errors(path):
                block = next(source, None)
            if block is None:
                return
            yield block

    return read
