"""Codes read as sums of one of 256 vectors a byte: finding better codes, and scoring them, in C++ (`byte_tables.cpp`).

Refinement is coordinate descent, as LSQ encodes (Martinez et al., ECCV 2016): each byte in turn takes the value of
least cost beside all others, and a byte that is forced off its value now and then lets the others leave a local
minimum. All costs are whole numbers in 16 bits, so the result does not depend on the order of a sum: equal costs give
equal codes on any machine, in any block, in C++ and in NumPy, which takes its place where nothing can be compiled.

Scores are sums of 32-bit floats in the order of the bytes, rounded to whole numbers of 2^-24: the same in both.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import log
from sdc.kernels import native

FORBIDDEN = np.iinfo(np.int16).max  # a cost that no value has
_GRID = np.float32(1 << 24)  # scores are rounded to it: so different ones differ in the nine digits that are shown
_LOADING = threading.Lock()


def refine(unary: np.ndarray, pairs: np.ndarray, codes: np.ndarray, rounds: int, perturbations: int) -> np.ndarray:
    """Codes of lower cost: `rounds` of coordinate descent, then perturbations, each kept where it lowers the cost.

    A perturbation forces one byte off its value and lets all bytes settle again; the bytes take turns.

    Args:
        unary: (M, n, 256) int16, what each value of each byte of each code costs by itself.
        pairs: (M, M, 256, 256) int16, what value v of byte k costs beside value w of byte j at [k, j, w, v]. No sum of
            a unary cost and M − 1 of these leaves 16 bits.
        codes: (n, M) uint8, where the descent starts.

    Returns:
        (n, M) uint8.
    """
    unary, pairs = (np.ascontiguousarray(costs, np.int16) for costs in (unary, pairs))
    codes = np.array(codes, np.uint8, order="C")
    changes = np.zeros(len(codes), np.int32)
    count = codes.shape[1]
    for _ in range(rounds):
        _settle(unary, pairs, codes, changes, range(count))
    for number in range(perturbations):
        byte = _turn(number, count)
        trial, changes = codes.copy(), np.zeros(len(codes), np.int32)
        _set_byte(unary[byte], pairs[byte], trial, changes, byte, forced=True)
        _settle(unary, pairs, trial, changes, [*(k for k in range(count) if k != byte), byte])
        better = changes < 0
        codes[better] = trial[better]
    return codes


def _turn(number: int, count: int) -> int:
    """Which byte is perturbed: all of them once, in an order that does not follow their neighbourhood, then again."""
    step = max(1, round(count * 0.618))
    while np.gcd(step, count) != 1:
        step += 1
    return number * step % count


def _settle(unary: np.ndarray, pairs: np.ndarray, codes: np.ndarray, changes: np.ndarray, order: Sequence[int]) -> None:
    for byte in order:
        _set_byte(unary[byte], pairs[byte], codes, changes, byte, forced=False)


def _set_byte(
    unary: np.ndarray, pairs: np.ndarray, codes: np.ndarray, changes: np.ndarray, byte: int, *, forced: bool
) -> None:
    """Gives one byte of all codes its best value, in place; adds to `changes` what that changes of their costs."""
    library = _load()
    if library is not None:
        pointers = (array.ctypes.data for array in (unary, pairs, codes, changes))
        library.sdc_set_byte(*codes.shape, byte, *pointers, int(forced))
        return
    rows, cost = np.arange(len(codes)), unary.copy()
    for other in range(codes.shape[1]):
        if other != byte:
            cost += pairs[other][codes[:, other]]
    before = cost[rows, codes[:, byte]].astype(np.int32)
    if forced:
        cost[rows, codes[:, byte]] = FORBIDDEN
    best = cost.argmin(axis=1)
    changes += cost[rows, best] - before
    codes[:, byte] = best


def whole_products(rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Products (q, n) int32 of rows (q, d) int32 with vectors (…, d) int16, n in all; no part of one reaches 2^24."""
    library, vectors = _load(), vectors.reshape(-1, vectors.shape[-1])
    if library is None:  # 32-bit floats are exact then, and multiplied by BLAS
        return np.asarray(rows.astype(np.float32) @ vectors.T.astype(np.float32)).astype(np.int32)
    rows, vectors = np.ascontiguousarray(rows, np.int32), np.ascontiguousarray(vectors, np.int16)
    products = np.empty((len(rows), len(vectors)), np.int32)
    pointers = (array.ctypes.data for array in (rows, vectors, products))
    library.sdc_products(len(rows), *vectors.shape, *pointers)
    return products


def table_scores(
    table: np.ndarray, offset: float, codes: np.ndarray, lengths: np.ndarray, factors: np.ndarray
) -> np.ndarray:
    """(offset + the sum of a table's entry a byte) · factor of the length, of every code, for one query.

    Args:
        table: (M, 256) float32, the products of the query with the vectors.
        offset: its product with the mean.
        codes: (n, M) uint8.
        lengths: (n,) uint8.
        factors: (256,) float32.

    Returns:
        (n,) float32, whole numbers of 1 / 2^24.
    """
    library = _load()
    if library is None:
        sums = np.full(len(codes), offset, np.float32)
        for byte, entries in enumerate(table):
            sums += entries[codes[:, byte]]
        sums *= factors[lengths]
        return np.asarray(np.rint(sums * _GRID) / _GRID)
    codes, lengths = (np.ascontiguousarray(array, np.uint8) for array in (codes, lengths))
    table, factors = (np.ascontiguousarray(array, np.float32) for array in (table, factors))
    scores = np.empty(len(codes), np.float32)
    pointers = (array.ctypes.data for array in (codes, lengths, factors, scores))
    library.sdc_scores(*codes.shape, table.ctypes.data, ctypes.c_float(offset), *pointers)
    return scores


def best_scores(
    table: np.ndarray, offset: float, codes: np.ndarray, lengths: np.ndarray, factors: np.ndarray,
    places: np.ndarray, k: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The codes of the best scores among those at some places, by (score descending, place).

    On the calling thread, without the GIL. The other arguments are those of `table_scores`; nothing is gathered.

    Args:
        places: (n,) int64, distinct, in any order.
        k: how many, from 1; more than n returns all.

    Returns:
        scores (k,) float32, as `table_scores` gives them, and places (k,) int64.

    Raises:
        MemoryError: 32 bytes for each of k are more than there is.
    """
    library, k = _load(), min(k, len(places))
    if library is None or not k:
        scores = table_scores(table, offset, codes[places], lengths[places], factors)
        order = np.lexsort((places, -scores))[:k]
        return scores[order], places[order]
    codes, lengths = (np.ascontiguousarray(array, np.uint8) for array in (codes, lengths))
    table, factors = (np.ascontiguousarray(array, np.float32) for array in (table, factors))
    places = np.ascontiguousarray(places, np.int64)
    scores, best = np.empty(k, np.float32), np.empty(k, np.int64)
    pointers = (array.ctypes.data for array in (codes, lengths, factors, places))
    outs = (array.ctypes.data for array in (scores, best))
    size = len(places), codes.shape[1]
    if library.sdc_best(*size, table.ctypes.data, ctypes.c_float(offset), *pointers, k, *outs):
        raise MemoryError(f"a list of {k} neighbours does not fit into the memory: ask for fewer")
    return scores, best


def _load() -> Any:
    with _LOADING:  # threads that need it first compile it once
        return _loaded()


@functools.cache
def _loaded() -> Any:
    try:
        library = ctypes.CDLL(str(native.build(Path(__file__).with_name("byte_tables.cpp"))))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.warning("the refinement kernel is not available, NumPy takes its place: %s", native.reason(error))
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_long
    library.sdc_set_byte.restype = library.sdc_scores.restype = None
    library.sdc_set_byte.argtypes = [number, number, number, pointer, pointer, pointer, pointer, ctypes.c_int]
    library.sdc_scores.argtypes = [number, number, pointer, ctypes.c_float, pointer, pointer, pointer, pointer]
    library.sdc_products.restype = None
    library.sdc_products.argtypes = [number, number, number, pointer, pointer, pointer]
    library.sdc_best.restype = ctypes.c_int
    library.sdc_best.argtypes = [*library.sdc_scores.argtypes, number, pointer, pointer]
    return library
