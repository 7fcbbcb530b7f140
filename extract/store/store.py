"""The feature store: feats.h5, which holds a set's embeddings with all that belongs to them.

`/features` (N, d), `/ids`, `/labels`, `/labels_coarse`, `/splits/*` and `/skipped`; `/groundtruth/*` for landmark sets;
where they were asked for also `/views/1/features` and so on, and `/tokens`. `sdc.extract.store.file_format` is how
they lie on disk. Rows are read through memory maps at the datasets' offsets, many times faster than through HDF5.
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
from sdc.extract.store import file_format, groundtruth
from sdc.extract.store.listing import SPLITS as SPLITS
from sdc.extract.store.listing import Listing as Listing
from sdc.extract.store.listing import default_splits as default_splits
from sdc.files import atomic_write, require_file

FEATURES, TOKENS = "features", "tokens"


def view_name(number: int) -> str:
    """The dataset that holds the features of this view; 0 is the plain one."""
    return f"views/{number}/features" if number else FEATURES


class FeatureStore:
    """A whole feats.h5, read-only. No handle stays open: it forks, pickles, and may be replaced while in use.

    Attributes:
        path: where it is.
        provenance: where the features came from (JSON).
        fingerprint: covers provenance and content.
        features: (N, d) float16 or float32, a read-only np.memmap.
        views: (N, d) each, read-only np.memmaps of the features of augmented views 1, 2, ... of the images.
        tokens: (N, T, w), a read-only np.memmap of the tokens of each image's T patches, or None.
        labels, labels_coarse: (N,) int32, or (N, C) uint8 multi-hot, or None.
        names: (N,) the ids as they are stored, UTF-8 padded with NULs to one width.
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
            attributes, datasets = file_format.read(file, self.path)
            arrays = {name: dataset.map(file) for name, dataset in datasets.items()}
        if verify:
            file_format.verify(self.path, arrays, datasets)
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
        self.splits = {name: plain[f"splits/{name}"] for name in SPLITS}
        self.groundtruth = groundtruth.of_arrays(plain)
        self.skipped = [(name.decode(), reason.decode()) for name, reason in plain["skipped"].tolist()]
        self._rows, self.names = plain["features"], plain["ids"]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dimension(self) -> int:
        """d, the number of values in a row."""
        return int(self._rows.shape[1])

    def ids(self, rows: np.ndarray | None = None) -> list[str]:
        """The ids of `rows`, in their order (of all rows by default)."""
        chosen = self.names if rows is None else self.names[rows]
        return [name.decode() for name in chosen.tolist()]

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
    further: Sequence[file_format.Column] = (),
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
        file_format.Column("features", (n, dimension), kind, finite(blocks, kind, out)),
        file_format.Column("ids", (n,), np.dtype(f"S{listing.width}"), _encoded(listing)),
        *(
            file_format.Column(f"splits/{name}", rows.shape, rows.dtype, [rows])
            for name, rows in listing.splits.items()
        ),
        *(
            file_format.Column(name, labels.shape, labels.dtype, [labels])
            for name, labels in (("labels", listing.labels), ("labels_coarse", listing.labels_coarse))
            if labels is not None
        ),
        *(
            file_format.Column(name, array.shape, array.dtype, [array])
            for name, array in groundtruth.arrays(listing.groundtruth).items()
        ),
        _skipped_column(skipped),
        *(replace(column, blocks=finite(column.blocks, column.dtype, out)) for column in further),
    ]
    with atomic_write(out) as temporary:
        file_format.write(temporary, columns, json.loads(json.dumps(provenance)))
    return out


def finite(blocks: Iterable[np.ndarray], dtype: np.dtype[Any], where: Path) -> Iterator[np.ndarray]:
    """The blocks as `dtype`. Goes on to the end behind the first bad row, to count them, without yielding any more.

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
        raise SdcError(
            f"cannot write {where}: {bad} of {done} rows hold NaN, infinite values or values too large for {dtype} "
            f"(row {', '.join(map(str, first))}{', ...' if bad > len(first) else ''}), expected finite ones: "
            "repair or leave out these rows"
        )


def finite_rows(block: np.ndarray) -> np.ndarray:
    """Which rows of (n, ...) floats hold finite values alone, (n,)."""
    return np.isfinite(block).all(axis=tuple(range(1, block.ndim)))  # type: ignore[no-any-return]


def _encoded(listing: Listing, size: int = 65536) -> Iterator[np.ndarray]:
    for start in range(0, len(listing.ids), size):
        names = [name.encode() for name in listing.ids[start : start + size]]
        yield np.array(names, f"S{listing.width}")


def _skipped_column(skipped: Sequence[tuple[str, str]]) -> file_format.Column:
    encoded = [(name.encode(), reason.encode(errors="backslashreplace")) for name, reason in skipped]
    widths = [max((len(row[column]) for row in encoded), default=1) or 1 for column in (0, 1)]
    dtype = np.dtype([("id", f"S{widths[0]}"), ("reason", f"S{widths[1]}")])
    return file_format.Column("skipped", (len(encoded),), dtype, [np.array(encoded, dtype)])
