"""What an index knows of each code: its id, its labels, its ground truth and its row of feats.h5."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from sdc.errors import UsageError
from sdc.extract.store import (
    Classes,
    Ragged,
    classes_of_json,
    classes_to_json,
    groundtruth_arrays,
    groundtruth_from_arrays,
)
from sdc.retrieve.index.ids import Ids, positions_of_digits
from sdc.retrieve.index.sorted_rows import among


@dataclass(frozen=True)
class Records:
    """N codes and what is known of each: the database or the query split.

    Attributes:
        codes: (N, bits // 8) uint8.
        rows: (N,) int64, the rows of feats.h5, ascending in a database.
        ids: their ids; without, an id is its row in digits.
        labels, labels_coarse: (N,) int32, or (N, C) uint8 multi-hot, or none.
        lengths: (N,) uint8, of what the codes decode to where their model has byte tables (see `sdc.train.ByteTables`),
            or none.
        groundtruth: for the queries of landmark sets, N lists each, see `sdc.extract.store.FeatureStore`: their values
            are rows of feats.h5, which `rows` of the database holds in ascending order.
        classes: of a database the names of its classes, see `sdc.extract.store.classes`.
        texts: what a search shows of each, or none.

    Raises:
        UsageError: an array is not of N items or not of its kind.
    """

    codes: np.ndarray
    rows: np.ndarray
    ids: Ids | None = None
    labels: np.ndarray | None = None
    labels_coarse: np.ndarray | None = None
    groundtruth: Mapping[str, Ragged] = field(default_factory=dict)
    lengths: np.ndarray | None = None
    classes: Classes = field(default_factory=dict)
    texts: Ids | None = None

    def __post_init__(self) -> None:
        count = len(self.codes)
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2 or self.codes.shape[1] == 0:
            raise UsageError(
                f"codes must be (N, bits // 8) uint8, found {self.codes.dtype} of shape {self.codes.shape}"
            )
        if self.rows.shape != (count,) or self.rows.dtype.kind not in "iu":
            raise UsageError(f"{count} codes need {count} whole row numbers, found {_described(self.rows)}")
        for what, texts in (("ids", self.ids), ("texts", self.texts)):
            if texts is not None and len(texts) != count:
                raise UsageError(f"{count} codes need {count} {what}, found {len(texts)}")
        for what, labels in (("labels", self.labels), ("coarse labels", self.labels_coarse)):
            if labels is not None and not (
                len(labels) == count and labels.ndim in (1, 2) and labels.dtype.kind in "iub"
            ):
                raise UsageError(
                    f"{count} codes need whole-number {what}, ({count},) or ({count}, C), found {_described(labels)}"
                )
        if self.lengths is not None and (self.lengths.shape != (count,) or self.lengths.dtype != np.uint8):
            raise UsageError(f"{count} codes need ({count},) uint8 lengths, found {_described(self.lengths)}")
        for name, lists in self.groundtruth.items():
            if len(lists) != count or lists.offsets[-1] != len(lists.values):
                raise UsageError(f"{count} codes need as many lists of ground truth {name}, found {len(lists)}")

    def __len__(self) -> int:
        return len(self.codes)

    def names(self, positions: np.ndarray | None = None) -> list[str]:
        """The ids at `positions`, or all."""
        if positions is None:
            positions = np.arange(len(self))
        return [str(row) for row in self.rows[positions]] if self.ids is None else self.ids.take(positions)

    def find(self, name: str) -> int:
        """The first position whose id is `name`, or -1."""
        if self.ids is not None:
            return self.ids.find(name)
        if not name.isdecimal():
            return -1
        positions = np.flatnonzero(self.rows == min(int(name), np.iinfo(np.int64).max))
        return int(positions[0]) if len(positions) and str(self.rows[positions[0]]) == name else -1

    def positions(self, names: Collection[bytes]) -> Iterator[tuple[int, bytes]]:
        """Every position whose id is one of `names`, with that id; the rows ascend, as they do in a database."""
        return positions_of_digits(self.rows, names) if self.ids is None else self.ids.positions(names)

    def nearest(self, name: str) -> list[str]:
        """At most one id that resembles `name`."""
        return [] if self.ids is None else self.ids.nearest(name)

    def take(self, positions: np.ndarray) -> Records:
        """The records at `positions`, in that order."""
        return Records(
            self.codes[positions],
            self.rows[positions],
            None if self.ids is None else Ids.of(self.ids.take(positions)),
            None if self.labels is None else self.labels[positions],
            None if self.labels_coarse is None else self.labels_coarse[positions],
            {name: lists.take(positions) for name, lists in self.groundtruth.items()},
            None if self.lengths is None else self.lengths[positions],
            self.classes,
            None if self.texts is None else Ids.of(self.texts.take(positions)),
        )

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All but the codes, as arrays to be stored."""
        arrays = {f"{prefix}.rows": self.rows.astype(np.int64, copy=False)}
        if self.ids is not None:
            arrays |= {f"{prefix}.ids": self.ids.text, f"{prefix}.id_offsets": self.ids.offsets}
        if self.texts is not None:
            arrays |= {f"{prefix}.texts": self.texts.text, f"{prefix}.text_offsets": self.texts.offsets}
        if self.lengths is not None:
            arrays[f"{prefix}.lengths"] = self.lengths
        for name, labels in (("labels", self.labels), ("labels_coarse", self.labels_coarse)):
            if labels is not None:
                arrays[f"{prefix}.{name}"] = labels.astype(np.int32 if labels.ndim == 1 else np.uint8, copy=False)
        if self.classes:
            text = json.dumps(classes_to_json(self.classes), ensure_ascii=False).encode()
            arrays[f"{prefix}.classes"] = np.frombuffer(text, np.uint8)
        return arrays | {f"{prefix}.{name}": array for name, array in groundtruth_arrays(self.groundtruth).items()}

    @classmethod
    def of_arrays(cls, codes: np.ndarray, prefix: str, arrays: Mapping[str, np.ndarray]) -> Records:
        """The inverse of `arrays`; raises KeyError where one is missing, ValueError where the names are no JSON."""
        ids, texts = (
            Ids(arrays[f"{name}s"], arrays[f"{name}_offsets"]) if f"{name}s" in arrays else None
            for name in (f"{prefix}.id", f"{prefix}.text")
        )
        labels, labels_coarse = (arrays.get(f"{prefix}.{name}") for name in ("labels", "labels_coarse"))
        named = {name.removeprefix(f"{prefix}."): array for name, array in arrays.items() if name.startswith(prefix)}
        groundtruth, lengths = groundtruth_from_arrays(named), arrays.get(f"{prefix}.lengths")
        classes = classes_of_json(bytes(arrays[f"{prefix}.classes"])) if f"{prefix}.classes" in arrays else {}
        return cls(codes, arrays[f"{prefix}.rows"], ids, labels, labels_coarse, groundtruth, lengths, classes, texts)

    @classmethod
    def joined(cls, parts: Sequence[tuple[Records, np.ndarray]]) -> Records:
        """The records of all parts, in their order, of each those that its mask (N,) keeps; one copy of each array.

        The parts are of one kind: all or none have labels, of one width, and lengths. Ground truth is left out.
        """
        first = parts[0][0]
        ids = None
        if any(part.ids is not None for part, _ in parts):
            ids = Ids.joined([(part.ids or Ids.of_digits(part.rows), mask) for part, mask in parts])

        texts = None
        if any(part.texts is not None for part, _ in parts):
            texts = Ids.joined([(part.texts or Ids.of([""] * len(part)), mask) for part, mask in parts])

        def column(name: str) -> np.ndarray:
            return _joined([(getattr(part, name), mask) for part, mask in parts])

        labels, coarse, lengths = (
            None if getattr(first, name) is None else column(name) for name in ("labels", "labels_coarse", "lengths")
        )
        classes = merged_classes([part.classes for part, _ in parts])
        return cls(column("codes"), column("rows"), ids, labels, coarse, lengths=lengths, classes=classes, texts=texts)


def merged_classes(parts: Sequence[Classes]) -> Classes:
    """The names of all parts; of a class that several name the first part's."""
    merged: dict[str, dict[int, str]] = {}
    for classes in parts:
        for level, names in classes.items():
            merged[level] = {**names, **merged.get(level, {})}
    return {level: dict(sorted(names.items())) for level, names in merged.items()}


def without_rows(queries: Records, gone: np.ndarray) -> Records:
    """Queries whose ground truth names none of the rows `gone`, ascending."""
    if not len(gone) or not queries.groundtruth:
        return queries
    lists = {
        name: Ragged.of(rows[~among(rows, gone)] for rows in (each[query] for query in range(len(each))))
        for name, each in queries.groundtruth.items()
    }
    return replace(queries, groundtruth=lists)


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    first = parts[0][0]
    counts = [int(mask.sum()) for _, mask in parts]
    out = np.empty((sum(counts), *first.shape[1:]), first.dtype)
    for (array, mask), (start, end) in zip(parts, pairwise(np.cumsum([0, *counts]).tolist()), strict=True):
        np.compress(mask, array, axis=0, out=out[start:end])
    return out


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
