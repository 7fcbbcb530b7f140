"""What an index knows of each code: its id, its labels, its ground truth and its row of feats.h5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sdc.errors import UsageError
from sdc.extract.store import Ragged, groundtruth_arrays, groundtruth_from_arrays
from sdc.retrieve.index.ids import Ids


@dataclass(frozen=True)
class Records:
    """N codes and what is known of each; the database or the query split.

    Attributes:
        codes: (N, bits // 8) uint8.
        rows: (N,) int64, the rows of feats.h5, ascending in a database.
        ids: their ids; without, an id is its row in digits.
        labels, labels_coarse: (N,) int32, or (N, C) uint8 multi-hot, or none.
        groundtruth: for the queries of landmark sets, N lists each, see `sdc.extract.store.FeatureStore`: their values
            are rows of feats.h5, which `rows` of the database holds in ascending order.

    Raises:
        UsageError: an array is not of N items or not of its kind.
    """

    codes: np.ndarray
    rows: np.ndarray
    ids: Ids | None = None
    labels: np.ndarray | None = None
    labels_coarse: np.ndarray | None = None
    groundtruth: Mapping[str, Ragged] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.codes)
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2 or self.codes.shape[1] == 0:
            raise UsageError(
                f"codes must be (N, bits // 8) uint8, found {self.codes.dtype} of shape {self.codes.shape}"
            )
        if self.rows.shape != (count,) or self.rows.dtype.kind not in "iu":
            raise UsageError(f"{count} codes need {count} whole row numbers, found {_described(self.rows)}")
        if self.ids is not None and len(self.ids) != count:
            raise UsageError(f"{count} codes need {count} ids, found {len(self.ids)}")
        for what, labels in (("labels", self.labels), ("coarse labels", self.labels_coarse)):
            if labels is not None and not (
                len(labels) == count and labels.ndim in (1, 2) and labels.dtype.kind in "iub"
            ):
                raise UsageError(
                    f"{count} codes need whole-number {what}, ({count},) or ({count}, C), found {_described(labels)}"
                )
        for name, lists in self.groundtruth.items():
            if len(lists) != count or lists.offsets[-1] != len(lists.values):
                raise UsageError(f"{count} codes need as many lists of ground truth {name}, found {len(lists)}")

    def __len__(self) -> int:
        return len(self.codes)

    def names(self, positions: np.ndarray | None = None) -> list[str]:
        """The ids at `positions`, or all."""
        wanted = np.arange(len(self)) if positions is None else positions
        return [str(row) for row in self.rows[wanted]] if self.ids is None else self.ids.take(wanted)

    def find(self, name: str) -> int:
        """The first position whose id is `name`, or -1."""
        if self.ids is not None:
            return self.ids.find(name)
        if not name.isdecimal():
            return -1
        found = np.flatnonzero(self.rows == min(int(name), np.iinfo(np.int64).max))
        return int(found[0]) if len(found) and str(self.rows[found[0]]) == name else -1

    def nearest(self, name: str) -> list[str]:
        """At most one id that resembles `name`."""
        return [] if self.ids is None else self.ids.nearest(name)

    def take(self, positions: np.ndarray) -> Records:
        """The entries at `positions`, in that order."""
        return Records(
            self.codes[positions],
            self.rows[positions],
            None if self.ids is None else Ids.of(self.ids.take(positions)),
            None if self.labels is None else self.labels[positions],
            None if self.labels_coarse is None else self.labels_coarse[positions],
            {name: lists.take(positions) for name, lists in self.groundtruth.items()},
        )

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All but the codes, as arrays to be stored."""
        found = {f"{prefix}.rows": self.rows.astype(np.int64, copy=False)}
        if self.ids is not None:
            found |= {f"{prefix}.ids": self.ids.text, f"{prefix}.id_offsets": self.ids.offsets}
        for name, labels in (("labels", self.labels), ("labels_coarse", self.labels_coarse)):
            if labels is not None:
                found[f"{prefix}.{name}"] = labels.astype(np.int32 if labels.ndim == 1 else np.uint8, copy=False)
        return found | {f"{prefix}.{name}": array for name, array in groundtruth_arrays(self.groundtruth).items()}

    @classmethod
    def of_arrays(cls, codes: np.ndarray, prefix: str, arrays: Mapping[str, np.ndarray]) -> Records:
        """The inverse of `arrays`; raises KeyError where one is missing."""
        ids = None
        if f"{prefix}.ids" in arrays:
            ids = Ids(arrays[f"{prefix}.ids"], arrays[f"{prefix}.id_offsets"])
        labels, labels_coarse = (arrays.get(f"{prefix}.{name}") for name in ("labels", "labels_coarse"))
        own = {name.removeprefix(f"{prefix}."): array for name, array in arrays.items() if name.startswith(prefix)}
        return cls(codes, arrays[f"{prefix}.rows"], ids, labels, labels_coarse, groundtruth_from_arrays(own))


def own_positions(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """(Q,) the place of each query's own row in the database, or −1.

    Args:
        queries: (Q,) rows of feats.h5.
        database: (N,) likewise, ascending.
    """
    place = np.minimum(np.searchsorted(database, queries), len(database) - 1)
    return np.where(database[place] == queries, place, -1)


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"
