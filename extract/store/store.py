"""The feature store: feats.h5, the features of a set with ids, labels, splits and where they came from.

`/features` (N, d), `/ids`, `/labels`, `/labels_coarse`, `/classes`, `/splits/*` and `/skipped`; `/groundtruth/*` for
landmark sets; where they were asked for also `/views/1/features` and so on, and `/tokens`.
`sdc.extract.store.file_format` says how they lie on disk. Rows are read through memory maps at the datasets' offsets,
many times faster than through HDF5.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError
from sdc.extract.store.classes import classes_of_json, classes_to_json
from sdc.extract.store.file_format import REMAKE, Column, read_layout, verify_checksums, write_columns
from sdc.extract.store.groundtruth import groundtruth_arrays, groundtruth_from_arrays
from sdc.extract.store.listing import SPLITS, Listing
from sdc.extract.store.seal import has_seal
from sdc.extract.store.text_columns import (
    id_columns,
    ids_of_arrays,
    skipped_columns,
    skipped_of_arrays,
    text_columns,
    texts_of_arrays,
)
from sdc.files import atomic_write, require_file

FEATURES, TOKENS, CLASSES = "features", "tokens", "classes"


def view_name(number: int) -> str:
    """The dataset that holds the features of this view; 0 is the plain one."""
    return f"views/{number}/features" if number else FEATURES


def is_feature_store(path: Path) -> bool:
    """Whether a file was written by `write_features`, by its end; raises SdcError where there is no such file."""
    with require_file(Path(path), "file of features", "sdc extract").open("rb") as file:
        return has_seal(file)


class FeatureStore:
    """A whole feats.h5, read-only. No handle stays open: it forks, pickles, and may be replaced while in use.

    Attributes:
        path: where it is.
        provenance: where the features came from (JSON).
        fingerprint: covers provenance and content.
        features: (N, d) float16 or float32, a read-only np.memmap.
        views: (N, d) each, read-only np.memmaps of the features of augmented views 1, 2, ... of the images.
        tokens: (N, T, w), a read-only np.memmap of the tokens of each image's T patches, or None.
        labels, labels_coarse: (N,) int32, or (N, C) uint8 multi-hot, or None. `NO_LABEL` is no label.
        classes: the names of their classes, see `sdc.extract.store.classes`.
        encoded_ids: the N ids as they are stored.
        texts: what a search shows of each row, N texts, or None.
        splits: int64 row numbers, ascending, for each of `SPLITS` (possibly none).
        groundtruth: for landmark sets, such as easy, hard and junk: of each query, in the order of its split, the rows
            (not positions in the database split) that are so, ascending. Rows that were skipped are in none.
        skipped: (id, reason) of what could not be embedded.

    Args:
        verify: compare every block of rows with its checksum, at memory speed. Attributes, shapes and sizes
            are checked in any case.

    Raises:
        SdcError: no such file, not a feature store, of another schema, truncated, or damaged (naming the rows).
    """

    def __init__(self, path: Path | str, *, verify: bool = True) -> None:
        self.path = require_file(Path(path), "feature store", "sdc extract")
        with self.path.open("rb") as file:
            attributes, datasets = read_layout(file, self.path)
            arrays = {name: dataset.map(file) for name, dataset in datasets.items()}
        if attributes["provenance"].get("source") == "copy":
            raise SdcError(f"{self.path} is a copy of features that --rerank reads, expected the feature store itself")
        if verify:
            verify_checksums(self.path, arrays, datasets)
        self.provenance: dict[str, Any] = attributes["provenance"]
        self.fingerprint: str = attributes["fingerprint"]
        self.features = arrays["features"]
        numbers = itertools.takewhile(lambda number: view_name(number) in arrays, itertools.count(1))
        self.views = [arrays[view_name(number)] for number in numbers]
        self.tokens = arrays.get(TOKENS)
        # Plain arrays over the same maps: an np.memmap's own indexing is slower.
        plain = {name: np.asarray(array) for name, array in arrays.items()}
        self.labels: np.ndarray | None = plain.get("labels")
        self.labels_coarse: np.ndarray | None = plain.get("labels_coarse")
        self.classes = _classes(self.path, plain.get(CLASSES))
        self.splits = {name: plain[f"splits/{name}"] for name in SPLITS}
        self.groundtruth = groundtruth_from_arrays(plain)
        self.skipped = skipped_of_arrays(plain)
        self.texts = texts_of_arrays(plain)
        self._rows, self.encoded_ids = plain["features"], ids_of_arrays(plain)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dimension(self) -> int:
        """d, the number of values in a row."""
        return int(self._rows.shape[1])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's features."""
        return self.dimension * self._rows.dtype.itemsize

    def ids(self, rows: np.ndarray | None = None) -> list[str]:
        """The ids of `rows`, in their order (of all rows by default)."""
        encoded = self.encoded_ids.encoded_at(slice(None) if rows is None else rows)
        return [name.decode() for name in encoded]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The features of `rows`, (n, d), in their order; a copy."""
        return np.take(self._rows, rows, axis=0)

    def blocks(self, rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
        """The features of `rows` in slices of `size` rows (the last may be shorter), each (n, d).

        Where the rows of a slice are consecutive it is a read-only view of the file, not a copy.
        """
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            if (np.diff(part) == 1).all():
                yield self._rows[part[0] : part[-1] + 1]
            else:
                yield self._rows[part]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.fingerprint)


def _classes(path: Path, stored: np.ndarray | None) -> dict[str, dict[int, str]]:
    try:
        return {} if stored is None else classes_of_json(bytes(stored[0]))
    except (ValueError, TypeError) as error:
        raise SdcError(f"{path} is damaged in /{CLASSES} ({error}): {REMAKE}") from error


def _reopen(path: Path, expected: str) -> FeatureStore:
    store = FeatureStore(path, verify=False)
    if store.fingerprint != expected:
        raise SdcError(
            f"{path} was replaced while in use: found fingerprint {store.fingerprint}, expected {expected}; "
            "start again with the new file"
        )
    return store


def write_features(
    out: Path,
    listing: Listing,
    provenance: Mapping[str, Any],
    dimension: int,
    dtype: np.dtype[Any] | type | str,
    blocks: Iterable[np.ndarray],
    skipped: Sequence[tuple[str, str]] = (),
    further: Sequence[Column] = (),
) -> Path:
    """Writes a whole feature store in one go, atomically.

    Args:
        dtype: float16 or float32, what the features are stored as.
        blocks: the features in the listing's order, (n, dimension) each, as many rows together as there are ids.
        skipped: (id, reason) of what is not in the listing because it could not be embedded.
        further: columns of as many rows, such as other views or tokens.

    Raises:
        SdcError: no rows, values that are NaN or infinite (also by overflow of `dtype`), or `out` cannot be written.
    """
    n, kind = len(listing.ids), np.dtype(dtype)
    if kind not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise SdcError(f"cannot write {out}: features as {kind}, expected float16 or float32")
    if n == 0 or dimension == 0:
        because = f" (all {len(skipped)} were skipped; the first, {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise SdcError(f"cannot write {out}: there are {n} rows of {dimension} values{because}, expected at least one")
    columns = [
        Column("features", (n, dimension), kind, finite_blocks(blocks, kind, out)),
        *id_columns(listing.ids, listing.id_widths),
        *(Column(f"splits/{name}", rows.shape, rows.dtype, [rows]) for name, rows in listing.splits.items()),
        *(
            Column(name, labels.shape, labels.dtype, [labels])
            for name, labels in (("labels", listing.labels), ("labels_coarse", listing.labels_coarse))
            if labels is not None
        ),
        *(
            Column(name, array.shape, array.dtype, [array])
            for name, array in groundtruth_arrays(listing.groundtruth).items()
        ),
        *_classes_column(listing),
        *text_columns(listing.texts),
        *skipped_columns(skipped),
        *(replace(column, blocks=finite_blocks(column.blocks, column.dtype, out)) for column in further),
    ]
    with atomic_write(out) as temporary:
        write_columns(temporary, columns, json.loads(json.dumps(provenance)))
    return out


def finite_blocks(blocks: Iterable[np.ndarray], dtype: np.dtype[Any], where: Path) -> Iterator[np.ndarray]:
    """The blocks as `dtype`. After the first bad row it yields no more, but reads on to count the bad ones.

    Raises:
        SdcError: rows hold NaN or infinite values, naming the first few.
    """
    done = bad = 0
    first: list[int] = []
    for block in blocks:
        with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused here
            cast = np.ascontiguousarray(block, dtype)
        whole = finite_rows(cast)
        if not whole.all():
            rows = np.flatnonzero(~whole) + done
            bad += len(rows)
            first += rows[: 5 - len(first)].tolist()
        done += len(block)
        if not bad:
            yield cast
    if bad:
        what = f"{bad} of {done} rows hold NaN, infinite values or values too large for {dtype}"
        examples = [f"row {first[0]}", *map(str, first[1:])]
        raise not_finite_error(where, what, examples, bad, "repair or leave out these rows")


def not_finite_error(where: Path, what: str, examples: Sequence[str], count: int, advice: str) -> SdcError:
    """The error for features that are NaN or infinite, with the first of the `count` examples."""
    shown = ", ".join(examples[:5]) + (", ..." if count > 5 else "")
    return SdcError(f"cannot write {where}: {what} ({shown}), expected finite ones: {advice}")


def finite_rows(block: np.ndarray) -> np.ndarray:
    """Which rows of (n, ...) floats hold finite values alone, (n,)."""
    return np.isfinite(block).all(axis=tuple(range(1, block.ndim)))  # type: ignore[no-any-return]


def _classes_column(listing: Listing) -> list[Column]:
    """The names of classes as one text of JSON: it costs what the names are long, not the longest of them for each."""
    if not listing.classes:
        return []
    text = json.dumps(classes_to_json(listing.classes), ensure_ascii=False).encode()
    dtype = np.dtype(f"S{len(text)}")
    return [Column(CLASSES, (1,), dtype, [np.array([text], dtype)])]
