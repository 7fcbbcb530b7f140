"""The items of an index as they stand: those of db.bin without what was removed, then those that were added.

A position is one among these. Where db.bin itself has an item is its stored position: positions count on from it where
items before it were removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property

import numpy as np

from sdc.errors import UsageError
from sdc.extract.store import Classes
from sdc.retrieve.index.delta.tombstones import NO_TOMBSTONES, Tombstones
from sdc.retrieve.index.records import Records, merged_classes, without_rows
from sdc.retrieve.index.sorted_rows import look_up


class MergedView:
    """The items of an index; nothing of db.bin is copied before all `records` of a changed one are asked for.

    Attributes:
        stored: what db.bin has.
        tombstones: the stored positions of what was removed from it.
        added: what was added and not removed since, rows ascending, all above those of db.bin; None without any.
        remaining: how many of the stored items were not removed: positions below it are theirs.
    """

    def __init__(self, stored: Records, tombstones: Tombstones = NO_TOMBSTONES, added: Records | None = None) -> None:
        self.stored, self.tombstones, self.added = stored, tombstones, added
        self.remaining = len(stored) - len(tombstones)

    def __len__(self) -> int:
        return self.remaining + (0 if self.added is None else len(self.added))

    @cached_property
    def records(self) -> Records:
        """All of them; of a changed index in arrays of their own, as much memory as it takes."""
        if self.added is None and not len(self.tombstones):
            return self.stored
        there = np.ones(len(self.stored), bool)
        there[self.tombstones.removed] = False
        added = [] if self.added is None else [(self.added, np.ones(len(self.added), bool))]
        return Records.joined([(self.stored, there), *added])

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """The rows at positions, of any shape."""
        return self._gather(positions, self.stored.rows, None if self.added is None else self.added.rows)

    def codes(self, positions: np.ndarray) -> np.ndarray:
        """The codes at positions (…,), (…, bits // 8)."""
        return self._gather(positions, self.stored.codes, None if self.added is None else self.added.codes)

    def lengths(self, positions: np.ndarray) -> np.ndarray | None:
        """The length bytes at positions, of any shape; None where the index has none, see `Records.lengths`."""
        added = None if self.added is None else self.added.lengths
        if self.stored.lengths is None or (self.added is not None and added is None):
            return None
        return self._gather(positions, self.stored.lengths, added)

    def labels(self, positions: np.ndarray) -> np.ndarray | None:
        """The labels at positions of any shape, which it has, or it and C for multi-hot ones; None without labels."""
        added = None if self.added is None else self.added.labels
        return None if self.stored.labels is None else self._gather(positions, self.stored.labels, added)

    def texts(self, positions: np.ndarray) -> list[str] | None:
        """The texts at positions (n,), empty where an item has none; None where none of all has one."""
        if all(part is None or part.texts is None for part in (self.stored, self.added)):
            return None
        shown = [""] * len(positions)
        for records, places, back in self.parts(positions) if len(positions) else ():
            if records.texts is not None:
                named = dict(zip(back(places).tolist(), records.texts.take(places), strict=True))
                shown = [named.get(position, text) for position, text in zip(positions.tolist(), shown, strict=True)]
        return shown

    @cached_property
    def classes(self) -> Classes:
        """The names of all classes, see `sdc.extract.store.classes`."""
        return merged_classes([part.classes for part in (self.stored, self.added) if part is not None])

    def names(self, positions: np.ndarray) -> list[str]:
        """The ids at positions (n,)."""
        if self.added is None:
            return self.stored.names(self.tombstones.stored(positions))
        old = positions < self.remaining
        former = iter(self.stored.names(self.tombstones.stored(positions[old])))
        later = iter(self.added.names(positions[~old] - self.remaining))
        return [next(former if first else later) for first in old.tolist()]

    def positions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions of rows, and which of them there are at all; the position of another one means nothing."""
        stored, present = look_up(self.stored.rows, rows)
        positions, removed = self.tombstones.merged(stored)
        present = present & ~removed
        if self.added is not None:
            later, new = look_up(self.added.rows, rows)
            present, positions = present | new, np.where(new, later + self.remaining, positions)
        return positions, present

    def count(self, first: int, end: int) -> int:
        """How many items have a row from `first` to `end`, that one left out."""
        cut = np.searchsorted(self.stored.rows, (first, end))
        removed = np.diff(np.searchsorted(self.tombstones.removed, cut))
        later = 0 if self.added is None else np.diff(np.searchsorted(self.added.rows, (first, end)))[0]
        return int(cut[1] - cut[0] - removed[0] + later)

    def find(self, name: str) -> int:
        """The first position whose id is `name`, or −1. (Who removes an id removes all that have it.)"""
        stored = self.stored.find(name)
        if stored >= 0:
            position, removed = self.tombstones.merged(np.array([stored]))
            if not removed[0]:
                return int(position[0])
        later = -1 if self.added is None else self.added.find(name)
        return later if later < 0 else later + self.remaining

    def nearest(self, name: str) -> list[str]:
        """At most one id that resembles `name`; none where that was removed."""
        later = [] if self.added is None else self.added.nearest(name)
        return [near for near in later or self.stored.nearest(name) if self.find(near) >= 0]

    def rows_of_ids(self, names: Collection[bytes]) -> tuple[np.ndarray, set[bytes]]:
        """The rows of all items whose id is one of `names`, ascending, and those of the names that there are."""
        rows, known = [np.empty(0, np.int64)], set[bytes]()
        for part, tombstones in ((self.stored, self.tombstones), (self.added, NO_TOMBSTONES)):
            hits = [] if part is None else list(part.positions(names))
            if part is None or not hits:
                continue
            positions = np.array([position for position, _ in hits], np.int64)
            there = ~tombstones.merged(positions)[1]
            rows.append(part.rows[positions[there]])
            known |= {name for (_, name), is_there in zip(hits, there.tolist(), strict=True) if is_there}
        return np.unique(np.concatenate(rows)), known

    def check(self, queries: Records) -> None:
        """Raises UsageError unless queries are of the same kind."""
        for what in ("codes", "labels", "labels_coarse"):
            a, b = getattr(queries, what), getattr(self.stored, what)
            if a is not None and b is not None and a.shape[1:] != b.shape[1:]:
                raise UsageError(
                    f"{what.replace('labels_coarse', 'coarse labels')} of the queries and of the database differ in "
                    f"width: {a.shape} and {b.shape}"
                )

    def without_removed(self, queries: Records) -> Records:
        """Queries whose ground truth names nothing that was removed."""
        return without_rows(queries, self.stored.rows[self.tombstones.removed])

    def parts(self, positions: np.ndarray) -> list[tuple[Records, np.ndarray, Callable[[np.ndarray], np.ndarray]]]:
        """Where items at positions (n,) lie: the records that hold them, their places there, and the way back.

        The way back makes positions of such places; within a part both ascend together.
        """
        old = positions < self.remaining
        there: list[tuple[Records, np.ndarray, Callable[[np.ndarray], np.ndarray]]] = []
        if self.added is None or old.any():
            former = positions if old.all() else positions[old]
            there.append(
                (self.stored, self.tombstones.stored(former), lambda places: self.tombstones.merged(places)[0])
            )
        if self.added is not None and not old.all():
            there.append((self.added, positions[~old] - self.remaining, lambda found: found + self.remaining))
        return there

    def _gather(self, positions: np.ndarray, stored: np.ndarray, added: np.ndarray | None) -> np.ndarray:
        if added is None:
            values: np.ndarray = stored[self.tombstones.stored(positions)]
            return values
        old = positions < self.remaining
        if old.all():
            return self._gather(positions, stored, None)
        out = np.empty((*positions.shape, *stored.shape[1:]), stored.dtype)
        out[old] = stored[self.tombstones.stored(positions[old])]
        out[~old] = added[positions[~old] - self.remaining]
        return out
