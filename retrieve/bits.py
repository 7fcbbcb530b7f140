"""Binary codes: packing, unpacking and Hamming distances, with NumPy alone.

Bit j of a code is [output_j > 0]; it sits in byte j // 8, least significant first (FAISS' order).
"""

from __future__ import annotations

import numpy as np

from sdc.arrays import pack_signs
from sdc.errors import SdcError, UsageError

_ROWS = 65536  # database rows XORed at once: the temporaries stay in the cache


def pack(outputs: np.ndarray) -> np.ndarray:
    """Codes of continuous outputs: bit j is 1 where output j > 0; exact zero is 0.

    Args:
        outputs: (N, bits) numbers or bools.

    Returns:
        (N, bits // 8) uint8.

    Raises:
        UsageError: the outputs are not a matrix, or their bits are not a multiple of 8.
        SdcError: an output is NaN.
    """
    outputs = np.asarray(outputs)
    if outputs.ndim != 2:
        raise UsageError(f"outputs must be (N, bits), found an array of shape {outputs.shape}")
    check_bits(outputs.shape[1])
    if outputs.dtype.kind == "f":
        bad = np.flatnonzero(np.isnan(outputs).any(axis=1))
        if len(bad):
            raise SdcError(f"outputs hold NaN, which has no sign: first in row {bad[0]} ({len(bad)} rows in all)")
    return pack_signs(outputs)


def unpack(codes: np.ndarray) -> np.ndarray:
    """The bits of codes (N, bits // 8) uint8, as (N, bits) bools."""
    return np.unpackbits(codes, axis=1, bitorder="little").astype(bool)


def check_bits(bits: int) -> None:
    """Raises UsageError unless `bits` is a positive multiple of 8."""
    if bits <= 0 or bits % 8:
        below = max(8, bits // 8 * 8)
        raise UsageError(f"codes of {bits} bits do not fill whole bytes: take a multiple of 8, e.g. {below}")


def hamming(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Hamming distances between all pairs.

    Args:
        queries: (Q, bits // 8) uint8.
        database: (N, bits // 8) uint8.

    Returns:
        (Q, N) int32.

    Raises:
        UsageError: the codes differ in width.
    """
    if queries.shape[1] != database.shape[1]:
        raise UsageError(
            f"query codes have {queries.shape[1] * 8} bits, the database's have {database.shape[1] * 8}: "
            "both must come from one model"
        )
    columns = np.ascontiguousarray(_words(database).T)  # (words, N)
    out = np.zeros((len(queries), len(database)), np.int32)
    for row, query in zip(out, _words(queries), strict=True):
        for start in range(0, len(row), _ROWS):
            part = row[start : start + _ROWS]
            for word, column in zip(query, columns, strict=True):
                part += np.bitwise_count(column[start : start + _ROWS] ^ word)
    return out


def _words(codes: np.ndarray) -> np.ndarray:
    """Codes as (N, ceil(bits / 64)) uint64; the bits added to fill the last word are 0 everywhere."""
    count, width = codes.shape
    words = -(-width // 8)
    padded = np.zeros((count, words * 8), np.uint8)
    padded[:, :width] = codes
    return padded.view(np.uint64)
