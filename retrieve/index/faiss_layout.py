"""How FAISS lays its binary indexes out in a file: what is read of it without FAISS, and nowhere else.

FAISS promises no layout. This one was compared with files of faiss-cpu 1.9.0, 1.10.0, 1.11.0, 1.12.0, 1.13.2, 1.14.3
and 1.15.1 and of faiss-gpu 1.14.3 and 1.15.1; `setup.py` admits no later minor release, and
tests/retrieve/index/test_faiss_layout.py compares it with the FAISS that is installed. (Opening an index of type ivf
takes FAISS 1.11: older ones cannot map it.)
"""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

import numpy as np

HEADER = struct.Struct("<4siiq?i")  # every binary index: fourcc, bits, bytes a code, count, trained, metric
FLAT_HEADER = struct.Struct(HEADER.format + "Q")  # then the bytes of codes
_IVF_HEADER = struct.Struct(HEADER.format + "QQ")  # then lists, nprobe
# Direct map: type, length; lists: fourcc, how many, bytes a code; sizes: kind, length.
_LISTS = struct.Struct("<bQ4sQQ4sQ")
FLAT, IVF = b"IBxF", b"IBwF"  # the fourcc of an IndexBinaryFlat and an IndexBinaryIVF


class Layout(NamedTuple):
    """What the headers of a FAISS index say.

    Attributes:
        bits: length of a code.
        ntotal: codes.
        size: bytes that it takes.
        codes_at: the byte where the codes stand by position; None where they stand in another order.
    """

    bits: int
    ntotal: int
    size: int
    codes_at: int | None = None


def flat_layout(data: mmap.mmap, start: int = 0) -> Layout:
    """Of an IndexBinaryFlat. Raises ValueError where its header contradicts itself, struct.error where it is cut."""
    fourcc, bits, width, count, trained, _, code_bytes = FLAT_HEADER.unpack_from(data, start)
    if not (
        fourcc == FLAT and trained and bits > 0 and bits == width * 8 and count >= 0 and code_bytes == count * width
    ):
        raise ValueError
    return Layout(bits, count, FLAT_HEADER.size + code_bytes, start + FLAT_HEADER.size)


def ivf_layout(data: mmap.mmap) -> Layout:
    """Of an IndexBinaryIVF: header, quantizer, a direct map (none), lists. Raises likewise."""
    _, bits, width, count, trained, _, lists, _ = _IVF_HEADER.unpack_from(data)
    quantizer = flat_layout(data, _IVF_HEADER.size)
    if not (trained and bits == width * 8 and count >= 0 and (quantizer.bits, quantizer.ntotal) == (bits, lists)):
        raise ValueError
    at = _IVF_HEADER.size + quantizer.size
    mapped, map_size, fourcc, number, list_width, kind, values = _LISTS.unpack_from(data, at)
    if (mapped, map_size, fourcc, number, list_width) != (0, 0, b"ilar", lists, width):
        raise ValueError
    if (kind, values) == (b"full", lists):
        sizes = np.frombuffer(data, np.uint64, lists, at + _LISTS.size)
    elif kind == b"sprs" and values % 2 == 0 and values <= 2 * lists:
        pairs = np.frombuffer(data, np.uint64, values, at + _LISTS.size).reshape(-1, 2)
        sizes = pairs[:, 1]
        if (pairs[:, 0] >= lists).any():
            raise ValueError
    else:
        raise ValueError
    if (sizes > count).any() or int(sizes.sum()) != count:
        raise ValueError
    return Layout(bits, count, at + _LISTS.size + 8 * values + count * (width + 8))


def other_layout(data: mmap.mmap, size: int) -> Layout:
    """Of any other binary index whose size is known. Raises likewise."""
    _, bits, width, count, _, _ = HEADER.unpack_from(data)
    if bits <= 0 or bits != width * 8 or count < 0:
        raise ValueError
    return Layout(bits, count, size)


def flat_header(count: int, width: int) -> bytes:
    """What stands before the codes of an IndexBinaryFlat of `count` codes of `width` bytes."""
    return FLAT_HEADER.pack(FLAT, width * 8, width, count, True, 1, count * width)
