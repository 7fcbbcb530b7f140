"""The ground truth of landmark sets: lists of rows for each query, in the place of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdc.errors import SdcError


@dataclass(frozen=True)
class Ragged:
    """Lists of whole numbers, laid end to end: list i is values[offsets[i]:offsets[i + 1]].

    Attributes:
        values: (V,) int64.
        offsets: (n + 1,) int64, from 0 to V.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, lists: Iterable[Sequence[int] | np.ndarray]) -> Ragged:
        """Each list as a set: ascending, every number once."""
        sets = [np.unique(np.asarray(numbers, np.int64)) for numbers in lists]
        offsets = np.zeros(len(sets) + 1, np.int64)
        np.cumsum([len(numbers) for numbers in sets], out=offsets[1:])
        return cls(np.concatenate([np.empty(0, np.int64), *sets]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> np.ndarray:
        """List `number`, (m,) int64; from 0, none counted from the end."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def take(self, numbers: np.ndarray) -> Ragged:
        """The lists of these numbers, in that order."""
        return Ragged.of(self[number] for number in numbers.tolist())

    def renumbered(self, numbers: np.ndarray) -> Ragged:
        """With numbers[v] in the place of each value v; those where it is -1 drop out."""
        mapped = [numbers[self[number]] for number in range(len(self))]
        return Ragged.of(values[values >= 0] for values in mapped)


def check_groundtruth(groundtruth: Mapping[str, Ragged], splits: Mapping[str, np.ndarray], n: int) -> dict[str, Ragged]:
    """Checks that a listing's ground truth fits the splits of its `n` rows, and returns it.

    Raises:
        SdcError: there is not a list for each query, or one of them has rows that are not in the database split.
    """
    queries, database = len(splits["query"]), np.zeros(n, bool)
    database[splits["database"]] = True
    for name, lists in groundtruth.items():
        if len(lists) != queries:
            raise SdcError(f"ground truth {name}: found lists for {len(lists)} queries, expected {queries}")
        for number in range(queries):
            rows = lists[number]
            bad = rows[(rows < 0) | (rows >= n)]
            bad = bad if len(bad) else rows[~database[rows]]
            if len(bad):
                raise SdcError(f"ground truth {name} of query {number}: row {bad[0]} is not in the database split")
    return dict(groundtruth)


def groundtruth_arrays(groundtruth: Mapping[str, Ragged]) -> dict[str, np.ndarray]:
    """A ground truth as arrays, by the names they have in feats.h5."""
    return {
        f"groundtruth/{name}/{part}": array
        for name, lists in groundtruth.items()
        for part, array in (("values", lists.values), ("offsets", lists.offsets))
    }


def groundtruth_from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Ragged]:
    """The ground truth that stands among other arrays; the inverse of `groundtruth_arrays`."""
    names = [name.split("/")[1] for name in arrays if name.startswith("groundtruth/") and name.endswith("/values")]
    return {name: Ragged(arrays[f"groundtruth/{name}/values"], arrays[f"groundtruth/{name}/offsets"]) for name in names}
