"""Binary codes that were made elsewhere: how they are found in a file, packed, and told from features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.extract.columns import column_beside, named_column
from sdc.extract.readers import Source, Table, open_source
from sdc.extract.vector_files import IDS, read_ids

KINDS = ("uint8", "int8", "bool")
_NAMES = ("codes", "code", "binary")
_MOST_BYTES = {"uint8": 512, "int8": 128}  # of a row that may be a code: wider ones of int8 are quantized features
_LOOKED_AT = 2000  # rows
_BALANCED = (0.2, 0.8)  # how often each of the eight bits of a byte is set, in codes


def find_codes(source: Source, column: str | None = None) -> Table:
    """The array that holds codes: the one named, else called `codes`, else the only matrix of bytes or of bools.

    Raises:
        UsageError: none could be meant, or several.
        SdcError: it is empty.
    """
    if column is not None:
        found = [named_column(source, column, "vectors")]
    else:
        matrices = [table for table in source.tables if len(table.shape) == 2 and table.dtype in KINDS]
        found = [table for table in matrices if table.leaf.lower() in _NAMES] or matrices
    if len(found) != 1 or len(found[0].shape) != 2 or found[0].dtype not in KINDS:
        listed = "; ".join(str(table) for table in source.tables[:5])
        raise UsageError(
            f"{source.name}: found {listed}; expected packed codes (N, bits // 8) uint8 or int8, or bits (N, bits) "
            "bool; --column says which"
        )
    if 0 in found[0].shape:
        raise SdcError(f"{source.name} holds no codes: found {found[0]}")
    return found[0]


def read_codes(path: Path) -> tuple[np.ndarray, list[str]]:
    """The codes of a file, (n, bits // 8) uint8, and their ids: those in the file, else the row numbers.

    Raises:
        UsageError, SdcError: as when the same file is imported.
    """
    source = open_source(path, "file of codes")
    table = find_codes(source)
    codes = packed_codes(table.read(), source.name)
    return codes, list(read_ids(None, column_beside(source, table, IDS), len(codes)))


def packed_codes(values: np.ndarray, where: str) -> np.ndarray:
    """Codes as an index has them, (N, bits // 8) uint8.

    Args:
        values: packed codes uint8; int8, which are those less 128, as sentence-transformers has them; or bits, bool.

    Raises:
        UsageError: bits that fill no bytes; bytes of zeros and ones alone, which are no packed codes.
    """
    if values.dtype == bool:
        if values.shape[1] % 8:
            raise UsageError(f"{where}: found codes of {values.shape[1]} bits, expected a multiple of 8")
        return np.packbits(values, axis=1, bitorder="little")
    if values.dtype == np.int8:
        return _raised(values)
    if values.shape[1] >= 8 and values.max() <= 1:
        raise UsageError(
            f"{where}: found zeros and ones in {values.shape[1]} columns of bytes, expected packed codes: save the "
            "bits as bool, or numpy.packbits(bits, axis=1)"
        )
    return np.ascontiguousarray(values, np.uint8)


def look_like_codes(table: Table) -> bool:
    """Whether a matrix of bytes looks like packed codes: each of the eight bits is set about as often as not."""
    if table.shape[1] > _MOST_BYTES.get(table.dtype, 0):
        return False
    sample = next(table.blocks())[:_LOOKED_AT]
    plain = _raised(sample) if sample.dtype == np.int8 else sample.astype(np.uint8)
    shares = np.unpackbits(plain.reshape(-1, 1), axis=1).mean(axis=0)
    return bool(((shares > _BALANCED[0]) & (shares < _BALANCED[1])).all())


def _raised(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.int16) + 128).astype(np.uint8)
