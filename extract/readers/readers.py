"""Arrays in other people's files, read block by block: npy, npz, parquet, safetensors, HDF5, fvecs, bvecs and what
`torch.save` wrote.

`tables` says what a file holds; nothing is read into memory before its blocks are asked for, and nothing but tensors
and plain values is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sdc.errors import UsageError
from sdc.extract.readers.fvecs import _vecs
from sdc.extract.readers.hdf5 import _hdf5
from sdc.extract.readers.npy import _npy, _npz
from sdc.extract.readers.parquet import _parquet
from sdc.extract.readers.safetensors import _safetensors
from sdc.extract.readers.table import Table, explaining


def tables(path: Path) -> list[Table]:
    """What the file holds.

    Raises:
        UsageError: the name's ending is none of those known.
        SdcError: the file is not what its ending says, is truncated, or holds pickled objects. Reading
            blocks raises it too.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        hint = " (pickled files are never loaded)" if path.suffix.lower() in (".pkl", ".pickle") else ""
        raise UsageError(
            f"cannot read {path}: unknown kind of file {path.suffix!r}{hint}, expected one of {', '.join(READERS)}"
        )
    with explaining(path):
        found = reader(path)
    return [Table(table.name, table.shape, table.dtype, _explained(path, table.blocks)) for table in found]


def _explained(path: Path, blocks: Callable[[], Iterator[np.ndarray]]) -> Callable[[], Iterator[np.ndarray]]:
    def read() -> Iterator[np.ndarray]:
        with explaining(path):
            source = blocks()
        while True:
            with explaining(path):
                block = next(source, None)
            if block is None:
                return
            yield block

    return read


def _torch(path: Path) -> list[Table]:
    from sdc.extract.readers.torch_save import read

    return read(path)


READERS: dict[str, Callable[[Path], list[Table]]] = {
    ".npy": _npy, ".npz": _npz, ".parquet": _parquet, ".safetensors": _safetensors, ".h5": _hdf5, ".hdf5": _hdf5,
    ".fvecs": _vecs(np.dtype("<f4")), ".bvecs": _vecs(np.dtype("u1")), ".pt": _torch, ".pth": _torch,
}  # fmt: skip
