"""Features in fewer bytes: a copy in float16, or in 8 bits a value, that reranking reads in their place.

In 8 bits a value x of dimension j is stored as the whole number x / step[j] + zero[j] from 0 to 255, with the step that
just spans the dimension's values; 0 itself is exact, so that a row of zeros keeps having no direction.

The copy of a feature store lies beside it, in feats.h5.float16 or feats.h5.int8. It has the format of the store (sealed
HDF5 with checksums), the datasets `features`, `zero` and `step`, and names the fingerprint of what it is a copy of. It
is made when it is first asked for, and anew where that is another one by now; it may be deleted at any time. An array
has its copy in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.extract.store import Column, read_layout, verify_checksums, write_columns
from sdc.files import atomic_write
from sdc.progress import Progress
from sdc.retrieve.features.stored_rows import FeatureRows, StoredRows

Precision = Literal["stored", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_LARGEST = 255  # of 8 bits
_BLOCK = 8192  # rows copied at once
_TINY = np.finfo(np.float32).tiny  # the least step


def check_precision(name: str) -> Precision:
    """The precision of this name; raises UsageError where there is none."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise unknown_name_error("precision", name, PRECISIONS)


class CompactRows(FeatureRows):
    """A copy of one matrix of features, uint8 or float16; `take` gives them in float.

    Attributes:
        zero, step: (d,) float32, of those in 8 bits; else None.
    """

    def __init__(
        self, features: np.ndarray, zero: np.ndarray | None, step: np.ndarray | None, path: Path | None
    ) -> None:
        super().__init__(features, path)
        self.zero, self.step = zero, step

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `take` gives."""
        return np.dtype(np.float16 if self.step is None else np.float32)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The features of `rows`, (n, d), in their order, as the copy has them."""
        found: np.ndarray = np.take(self._rows, rows, axis=0)
        if self.zero is None or self.step is None:
            return found
        decoded = found.astype(np.float32)
        decoded -= self.zero
        decoded *= self.step
        return decoded

    def verify(self) -> None:
        """Compares every byte with the checksums of the copy; raises SdcError where one differs."""
        if self.path is not None:
            _read(self.path, None, verify=True)


def compact_rows(original: StoredRows, precision: Precision) -> StoredRows | CompactRows:
    """The features in this precision; themselves, where they are stored in no more bytes than that.

    Raises:
        UsageError: they hold numbers that are too large for float16.
        SdcError: the copy cannot be written.
    """
    if precision == "stored" or (precision == "float16" and original.dtype.itemsize <= 2):
        return original
    if original.path is None:
        columns = _columns(original, precision)
        arrays = {column.name: np.concatenate([*column.blocks]) for column in columns}
        return CompactRows(arrays["features"], arrays.get("zero"), arrays.get("step"), None)
    path = original.path.with_name(f"{original.path.name}.{precision}")
    try:
        return _read(path, original.fingerprint, verify=False)
    except FileNotFoundError:
        log.info("%s is made: a copy of the features in %s, once", path, precision)
    except SdcError as error:
        log.info("%s: made anew", error)
    provenance = {"source": "copy", "precision": precision, "of": original.fingerprint}
    try:
        with atomic_write(path) as temporary:
            write_columns(temporary, _columns(original, precision), provenance)
    except UsageError:
        raise
    except SdcError as error:
        raise SdcError(f"{error}; or do without a copy, with --precision stored") from None
    return _read(path, original.fingerprint, verify=False)


def _read(path: Path, fingerprint: str | None, *, verify: bool) -> CompactRows:
    """The copy in a file.

    Args:
        fingerprint: of what it has to be a copy of; None takes any.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        attributes, datasets = read_layout(file, path)
        arrays = {name: dataset.map(file) for name, dataset in datasets.items()}
    if fingerprint is not None and attributes["provenance"].get("of") != fingerprint:
        raise SdcError(f"{path} is a copy of other features")
    if verify:
        verify_checksums(path, arrays, datasets)
    small = {name: np.array(arrays[name]) for name in ("zero", "step") if name in arrays}
    return CompactRows(arrays["features"], small.get("zero"), small.get("step"), path)


def _columns(original: StoredRows, precision: Precision) -> list[Column]:
    shape = (len(original), original.dimension)
    if precision == "float16":
        return [Column("features", shape, np.dtype(np.float16), _halves(original))]
    zero, step = _grid(original)
    kind = np.dtype(np.float32)
    return [
        Column("features", shape, np.dtype(np.uint8), _eights(original, zero, step)),
        Column("zero", zero.shape, kind, [zero]),
        Column("step", step.shape, kind, [step]),
    ]


def _blocks(original: StoredRows, what: str) -> Iterator[np.ndarray]:
    with Progress(what, len(original), "rows") as progress:
        for start in range(0, len(original), _BLOCK):
            block = original.take(np.arange(start, min(start + _BLOCK, len(original))))
            yield block
            progress.advance(len(block))


def _halves(original: StoredRows) -> Iterator[np.ndarray]:
    for block in _blocks(original, "copy in float16"):
        with np.errstate(over="ignore"):
            half = block.astype(np.float16)
        if not np.isfinite(half).all():
            raise UsageError(
                f"the features of {original.path or 'the array'} hold numbers up to {np.abs(block).max():.3g}, and "
                "float16 ends at 65504: take int8, or the features as they are stored"
            )
        yield half


def _grid(original: StoredRows) -> tuple[np.ndarray, np.ndarray]:
    """Zero and step of each dimension, (d,) float32."""
    low, high = np.full(original.dimension, np.inf), np.full(original.dimension, -np.inf)
    for block in _blocks(original, "range of the features"):
        np.minimum(low, block.min(axis=0), out=low)
        np.maximum(high, block.max(axis=0), out=high)
    step = (high - low) / (_LARGEST - 1)  # one less, since the zero is rounded
    step[step == 0] = np.maximum(np.abs(low[step == 0]), 1)  # all values are equal: 0, or one step from it
    return np.rint(-low / step).astype(np.float32), np.maximum(step, _TINY).astype(np.float32)


def _eights(original: StoredRows, zero: np.ndarray, step: np.ndarray) -> Iterator[np.ndarray]:
    for block in _blocks(original, "copy in 8 bits"):
        numbers = np.rint(block.astype(np.float32) / step) + zero
        yield np.clip(numbers, 0, _LARGEST).astype(np.uint8)
