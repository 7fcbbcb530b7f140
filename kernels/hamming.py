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
    function = _load()
    if function is None:
        raise RuntimeError("the search kernel is not available here (the log says why)")
    distances, positions = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    pointers = (array.ctypes.data for array in (distances, positions))
    if function(queries.ctypes.data, codes.ctypes.data, codes.shape[1], len(queries), len(codes), k, *pointers):
        raise MemoryError(f"{len(queries)} lists of {k} neighbours do not fit into the memory: ask for fewer")
    return distances, positions


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
    library.sdc_nearest.restype = ctypes.c_int
    library.sdc_nearest.argtypes = [pointer, pointer, number, number, number, number, pointer, pointer]
    return library.sdc_nearest
