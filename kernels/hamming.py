"""Exact k-nearest-neighbour search by Hamming distance on the CPU, in C++ (`hamming.cpp`).

Eight codes are compared at a time (XOR, a count of the ones in each 64-bit lane, a comparison with the distance that
is still good enough), with AVX-512 or AVX2 where the processor has them: `-march=native` decides. A block of codes
stays in the first-level cache while each query of a group goes over it, so that only a lone query waits for memory.

What passes the comparison is listed by position. A list of 2 k is cut back to the k nearest by counting distances, in
linear time for any k, which also tells the distance to be good enough from then on. Equal distances stay in the
order of positions throughout, so results are those of a stable sort by distance.

Why not FAISS' kernels alone: they compare a code at a time for each query, and take twice (a query whose codes come
from memory) to ten times (batches of 64-bit codes) as long on one thread; `bench/search_bench.py` measures it. Where
nothing can be compiled, they take this kernel's place.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import log
from sdc.kernels import native

# The vector code is written out; where there is none the compiler's would move words between registers in vain.
FLAGS = (*native.FLAGS, "-fno-tree-vectorize", "-fno-tree-slp-vectorize")
_LOADING = threading.Lock()


def available() -> bool:
    """Whether the kernel can run here; builds it at the first call. Says once, in the log, why it can't."""
    return _load() is not None


def nearest(queries: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest codes of each query, by (distance, position); on the calling thread, without the GIL.

    Args:
        queries: (Q, bits // 8) uint8, contiguous.
        codes: (N, bits // 8) uint8, contiguous, at any alignment.
        k: from 1 to N.

    Returns:
        distances (Q, k) int32 and positions (Q, k) int64.

    Raises:
        MemoryError: 8 bytes for each of 2 k candidates a query are more than there is.
        RuntimeError: the kernel cannot be built here (ask `available()` first).
    """
    library = _library()
    distances, positions = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    pointers = (array.ctypes.data for array in (distances, positions))
    if library.sdc_nearest(
        queries.ctypes.data, codes.ctypes.data, codes.shape[1], len(queries), len(codes), k, *pointers
    ):
        raise _no_room(len(queries), k)
    return distances, positions


def nearer(queries: np.ndarray, codes: np.ndarray, k: int, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the k nearest codes of each query that lie nearer than a limit, unsorted; arguments as of `nearest`.

    Where the limit leaves few, finding them costs a scan and little more, however large k is.

    Args:
        limits: (Q,) whole numbers; distances from there on do not count.

    Returns:
        keys (Q, k) uint64, of which the first ones of each row mean something, by position, for `key_positions`; and
        counts (Q, bits + 1) int64, how many of these there are at each distance.
    """
    library, width = _library(), codes.shape[1]
    limits = np.ascontiguousarray(limits, np.int64)
    keys, counts = np.empty((len(queries), k), np.uint64), np.empty((len(queries), 8 * width + 1), np.int64)
    pointers = (array.ctypes.data for array in (limits, keys, counts))
    if library.sdc_nearer(queries.ctypes.data, codes.ctypes.data, width, len(queries), len(codes), k, *pointers):
        raise _no_room(len(queries), k)
    return keys, counts


def key_positions(keys: np.ndarray, limit: int, ties: int, first: int, out: np.ndarray) -> None:
    """The positions, plus `first`, of the keys below the distance `limit` and of the first `ties` at it.

    Args:
        keys: (n,) uint64, of `nearer`.
        out: (m,) int64, contiguous, as many as there are.
    """
    _library().sdc_positions(keys.ctypes.data, len(keys), limit, ties, first, len(out), out.ctypes.data)


def _library() -> Any:
    library = _load()
    if library is None:
        raise RuntimeError("the search kernel is not available here (the log says why)")
    return library


def _no_room(queries: int, k: int) -> MemoryError:
    return MemoryError(f"{queries} lists of {k} neighbours do not fit into the memory: ask for fewer")


def _load() -> Any:
    with _LOADING:  # threads that search for the first time compile it once
        return _loaded()


@functools.cache
def _loaded() -> Any:
    try:
        return load()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.warning("the search kernel is not available, FAISS' own takes its place: %s", native.reason(error))
        return None


def load(flags: tuple[str, ...] = FLAGS) -> Any:
    """The kernel as these flags compile it.

    Raises:
        OSError, RuntimeError, subprocess.SubprocessError: see `sdc.kernels.native.build`.
    """
    library = ctypes.CDLL(str(native.build(Path(__file__).with_name("hamming.cpp"), flags)))
    pointer, number = ctypes.c_void_p, ctypes.c_long
    library.sdc_nearest.restype = library.sdc_nearer.restype = ctypes.c_int
    library.sdc_nearest.argtypes = [pointer, pointer, number, number, number, number, pointer, pointer]
    library.sdc_nearer.argtypes = [*library.sdc_nearest.argtypes, pointer]
    library.sdc_positions.restype = None
    library.sdc_positions.argtypes = [pointer, number, ctypes.c_uint64, number, number, number, pointer]
    return library
