"""The formats of vectors that can be read, by the ending of a file's name.

`read_tables` says what a file holds, `open_source` what a folder, pattern or list of files holds as one; nothing is
read into memory before its blocks are asked for, and nothing but tensors and plain values is unpickled. A new format is
a module with a function, and a line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sdc.errors import UsageError, log
from sdc.extract.readers.fvecs import read_bvecs, read_fvecs
from sdc.extract.readers.hdf5 import read_hdf5
from sdc.extract.readers.npy import read_npy, read_npz
from sdc.extract.readers.parquet import read_arrow, read_parquet
from sdc.extract.readers.safetensors import read_safetensors
from sdc.extract.readers.shards import find_files, one_after_the_other
from sdc.extract.readers.table import Source, Table, one_line_errors
from sdc.extract.readers.torch_save import read_torch_save
from sdc.inputs import utf8_path
from sdc.progress import Progress

READERS: dict[str, Callable[[Path], list[Table]]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".safetensors": read_safetensors,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".fvecs": read_fvecs,
    ".bvecs": read_bvecs,
    ".pt": read_torch_save,
    ".pth": read_torch_save,
}


def open_source(given: Path | Sequence[Path], what: str, without: Collection[Path] = ()) -> Source:
    """Opens a file, or the files of a folder, of a pattern, or of a list as one; see `find_files`.

    Args:
        what: it is expected to be, for the errors: "file of vectors".
        without: files of the folder that are none of it.

    Raises:
        UsageError: an unknown kind of file, files of several kinds, or a folder of splits.
        SdcError: nothing is there, or a file cannot be read.
    """
    paths = [Path(given)] if isinstance(given, (str, Path)) else [Path(path) for path in given]
    files = find_files(paths, what, READERS, without)
    if len(files) == 1:
        return Source(str(files[0]), files, read_tables(files[0]))
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    log.info("%s: %d files, from %s to %s", name, len(files), files[0].name, files[-1].name)
    with Progress("open", len(files), "files") as progress:
        opened = []
        for file in files:
            opened.append((file, read_tables(file)))
            progress.advance()
    return Source(name, files, one_after_the_other(opened))


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
    return [replace(table, blocks=_with_one_line_errors(path, table.blocks)) for table in tables]


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
