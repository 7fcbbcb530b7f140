"""The ids, splits, labels and ground truth of a set of images or vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from sdc.errors import SdcError, unknown_name_error
from sdc.extract.store.classes import LEVELS, SPOKEN, Classes, checked_classes
from sdc.extract.store.groundtruth import Ragged, check_groundtruth, groundtruth_arrays
from sdc.extract.store.id_array import EncodedIds, PackedIds

SPLITS = ("train", "query", "database")


@dataclass(frozen=True)
class Listing:
    """The ids, splits, labels and ground truth of a set's N rows; its features come later.

    Attributes:
        ids: N different names, without NUL characters.
        splits: row numbers for some of `SPLITS`, none twice in a split; kept as ascending int64 for each of them.
        labels, labels_coarse: (N,) whole numbers, kept as int32, or (N, C) zeros and ones, kept as uint8; the number
            `NO_LABEL`, or a row of zeros, is no label.
        groundtruth: of each query, in the order of its split, rows of the database.
        classes: the names of the classes of `labels` and `labels_coarse`, by their numbers, where they have names.
        texts: what a search shows of each row, if there is anything.
        id_widths: bytes of the longest id, and of all ids together.

    Raises:
        SdcError: an id is there twice or is no text, labels have another length or kind, a split's rows are
            out of range or there twice, a ground truth has another number of lists or other rows, classes have names
            in part, or one name.
    """

    ids: Sequence[str]
    splits: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    labels_coarse: np.ndarray | None = None
    groundtruth: Mapping[str, Ragged] = field(default_factory=dict)
    classes: Classes = field(default_factory=dict)
    texts: PackedIds | None = None
    id_widths: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.texts is not None and len(self.texts) != n:
            raise SdcError(f"texts: found {len(self.texts)}, expected {n}, one a row")
        splits = _checked_splits(self.splits, n)
        labels = {level: _checked_labels(getattr(self, level), SPOKEN[level], n) for level in LEVELS}
        checked = {
            "id_widths": _checked_ids(self.ids),
            "splits": splits,
            **labels,
            "groundtruth": check_groundtruth(self.groundtruth, splits, n),
            "classes": checked_classes(self.classes, labels),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def select(self, rows: np.ndarray) -> Listing:
        """The listing of `rows` (ascending) alone, the splits renumbered."""
        if len(rows) == len(self.ids):
            return self
        renumbered = np.full(len(self.ids), -1, np.int64)
        renumbered[rows] = np.arange(len(rows))
        splits = {name: renumbered[part] for name, part in self.splits.items()}
        queries = np.flatnonzero(splits["query"] >= 0)
        return Listing(
            ids=self.ids.take(rows) if isinstance(self.ids, EncodedIds) else [self.ids[row] for row in rows.tolist()],
            splits={name: part[part >= 0] for name, part in splits.items()},
            labels=None if self.labels is None else self.labels[rows],
            labels_coarse=None if self.labels_coarse is None else self.labels_coarse[rows],
            groundtruth={name: lists.take(queries).renumbered(renumbered) for name, lists in self.groundtruth.items()},
            classes=self.classes,
            texts=None if self.texts is None else self.texts.take(rows),
        )

    def digest(self) -> str:
        """A hash of what the features and their evaluation rest on: all but coarse labels, names of classes and texts.

        Sets may gain these: features extracted before then count as made with the same settings, and can be resumed.
        """
        state = xxhash.xxh3_128()
        for name in self.ids:
            state.update(name.encode() + b"\0")
        for key, array in {**self.splits, "labels": self.labels, **groundtruth_arrays(self.groundtruth)}.items():
            if array is not None:
                state.update(f"{key} {array.dtype.str} {array.shape}".encode())
                state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()


def _checked_ids(ids: Sequence[str]) -> tuple[int, int]:
    """The bytes of the longest id and of all together.

    Duplicates are sought by hash, so that millions of ids take 8 bytes each.
    """
    hashes = np.empty(len(ids), np.uint64)
    longest, together = 1, 0
    for row, name in enumerate(ids):
        try:
            encoded = name.encode()
        except UnicodeEncodeError as error:
            raise SdcError(f"id {name!r} (row {row}) is not valid Unicode: rename it") from error
        if b"\0" in encoded:
            raise SdcError(f"id {name!r} (row {row}) holds a NUL character: rename it")
        hashes[row] = xxhash.xxh3_64_intdigest(encoded)
        longest, together = max(longest, len(encoded)), together + len(encoded)
    hashes.sort()
    shared = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    first: dict[str, int] = {}
    for row, name in enumerate(ids if shared else ()):
        if xxhash.xxh3_64_intdigest(name.encode()) in shared and first.setdefault(name, row) != row:
            raise SdcError(f"id {name!r} is there twice (rows {first[name]} and {row}), expected each once")
    return longest, together


def _checked_splits(splits: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    for name in splits:
        if name not in SPLITS:
            raise unknown_name_error("split", name, SPLITS)
    checked = {}
    for name in SPLITS:
        values = np.asarray(splits.get(name, np.empty(0, np.int64)))
        if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
            raise SdcError(
                f"split {name}: found {values.dtype} of shape {values.shape}, expected a list of row numbers"
            )
        outside = values[(values < 0) | (values >= n)]
        if outside.size:
            raise SdcError(f"split {name}: row {outside[0]} is out of range, expected 0 to {n - 1}")
        ascending = (values[1:] > values[:-1]).all()
        rows = (values if ascending else np.sort(values)).astype(np.int64, copy=False)
        twice = rows[1:][rows[1:] == rows[:-1]]
        if twice.size:
            raise SdcError(f"split {name}: row {twice[0]} is there twice, expected each once")
        checked[name] = rows
    return checked


def _checked_labels(labels: np.ndarray | None, what: str, n: int) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.ndim not in (1, 2) or len(labels) != n or 0 in labels.shape[1:]:
        raise SdcError(f"{what}: found shape {labels.shape}, expected ({n},) or ({n}, classes)")
    if labels.dtype.kind not in "iub":
        raise SdcError(f"{what}: found {labels.dtype}, expected whole numbers (zeros and ones if several a row)")
    kind: Any = np.int32 if labels.ndim == 1 else np.uint8
    low, high = (np.iinfo(np.int32).min, np.iinfo(np.int32).max) if labels.ndim == 1 else (0, 1)
    if labels.size and (labels.min() < low or labels.max() > high):
        raise SdcError(f"{what}: found values from {labels.min()} to {labels.max()}, expected {low} to {high}")
    return labels.astype(kind, copy=False)


def default_splits(n: int, seed: int) -> dict[str, np.ndarray]:
    """Splits for a set that brings none, n >= 1 rows.

    `query` is a random tenth (1 to 1000 rows), `database` all rows, `train` all rows but the queries.
    Evaluation leaves a query's own row out of its ranking.
    """
    query = np.sort(np.random.default_rng(seed).choice(n, max(1, min(1000, n // 10)), replace=False))
    train = np.ones(n, bool)
    train[query] = False
    return {"train": np.flatnonzero(train), "query": query, "database": np.arange(n)}
