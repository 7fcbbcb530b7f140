"""The items of an index as they stand: those of db.bin without what was removed, then those that were added.

A place is a position among these, a position one in db.bin itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.extract.store import Ragged
from sdc.files import checksum
from sdc.retrieve.index import file_format
from sdc.retrieve.index.delta import items
from sdc.retrieve.index.delta.manifest import AGAIN, Change, Manifest
from sdc.retrieve.index.records import Records


class Tombstones:
    """What is missing of a run of positions, and how the places of the rest are counted.

    Attributes:
        removed: (r,) positions, ascending.
    """

    def __init__(self, removed: np.ndarray) -> None:
        self.removed = removed
        self._shifted = removed - np.arange(len(removed))
        self._ended = np.append(removed, np.iinfo(np.int64).max)  # spares a comparison with the length

    def __len__(self) -> int:
        return len(self.removed)

    def positions(self, places: np.ndarray) -> np.ndarray:
        """Where the places are, gaps counted."""
        if not len(self):
            return places
        moved: np.ndarray = places + np.searchsorted(self._shifted, places, side="right")
        return moved

    def places(self, positions: np.ndarray) -> np.ndarray:
        """The inverse, for positions that are not removed."""
        if not len(self):
            return positions
        moved: np.ndarray = positions - np.searchsorted(self.removed, positions)
        return moved

    def settled(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places of positions, and which of these are removed and have none, both in one pass."""
        before = np.searchsorted(self.removed, positions)
        return positions - before, self._ended[before] == positions

    def holds(self, positions: np.ndarray) -> np.ndarray:
        """Which positions are removed."""
        return self.settled(positions)[1]


_NONE = Tombstones(np.empty(0, np.int64))


class MergedView:
    """The items of an index; nothing of db.bin is copied before `entries` of a changed one is asked for.

    Attributes:
        base: what db.bin has.
        gaps: the positions in it that were removed.
        added: what was added and not removed since, rows ascending, all above those of db.bin; None without any.
        manifest: which says so; None where nothing was changed.
    """

    def __init__(
        self,
        base: Records,
        gaps: Tombstones | None = None,
        added: Records | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        self.base, self.gaps, self.added, self.manifest = base, _NONE if gaps is None else gaps, added, manifest
        self.kept = len(base) - len(self.gaps)  # places below it are in the base

    @classmethod
    def read(cls, base: Records, manifest: Manifest, folder: Path) -> MergedView:
        """Reads what a manifest names, and verifies it in any case: all of it is read anyway.

        Raises:
            SdcError: a file is missing, damaged, or does not fit to db.bin.
        """
        gone = np.unique(np.concatenate([np.empty(0, np.int64), *(_read_removed(folder, c) for c in manifest.changes)]))
        positions = np.searchsorted(base.rows, gone)
        known = items.standing(base.rows, positions, gone)
        parts = [_read_added(folder, change, base, gone) for change in manifest.changes if change.added]
        left = sum(map(len, parts))
        if int(known.sum()) + manifest.added - left != len(gone):
            raise SdcError(f"{folder} is damaged: it removes rows that the index never had; {AGAIN}")
        added = items.joined([(part, np.ones(len(part), bool)) for part in parts]) if left else None
        return cls(base, Tombstones(positions[known]), added, manifest)

    def __len__(self) -> int:
        return self.kept + (0 if self.added is None else len(self.added))

    @cached_property
    def entries(self) -> Records:
        """All of them; of a changed index in arrays of their own, as much memory as it takes."""
        if self.manifest is None:
            return self.base
        kept = np.ones(len(self.base), bool)
        kept[self.gaps.removed] = False
        added = [] if self.added is None else [(self.added, np.ones(len(self.added), bool))]
        return items.joined([(self.base, kept), *added])

    def rows(self, places: np.ndarray) -> np.ndarray:
        """The rows at places, of any shape."""
        return self._gather(places, self.base.rows, None if self.added is None else self.added.rows)

    def codes(self, places: np.ndarray) -> np.ndarray:
        """The codes at places (…,), (…, bits // 8)."""
        return self._gather(places, self.base.codes, None if self.added is None else self.added.codes)

    def names(self, places: np.ndarray) -> list[str]:
        """The ids at places (n,)."""
        if self.added is None:
            return self.base.names(self.gaps.positions(places))
        old = places < self.kept
        former = iter(self.base.names(self.gaps.positions(places[old])))
        later = iter(self.added.names(places[~old] - self.kept))
        return [next(former if first else later) for first in old.tolist()]

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rows are, and which of them there are at all; the place of another one means nothing."""
        positions = np.searchsorted(self.base.rows, rows)
        known = items.standing(self.base.rows, positions, rows) & ~self.gaps.holds(positions)
        places = self.gaps.places(positions)
        if self.added is not None:
            later = np.searchsorted(self.added.rows, rows)
            new = items.standing(self.added.rows, later, rows)
            known, places = known | new, np.where(new, later + self.kept, places)
        return places, known

    def count(self, first: int, end: int) -> int:
        """How many items have a row from `first` to `end`, that one left out."""
        cut = np.searchsorted(self.base.rows, (first, end))
        gone = np.diff(np.searchsorted(self.gaps.removed, cut))
        later = 0 if self.added is None else np.diff(np.searchsorted(self.added.rows, (first, end)))[0]
        return int(cut[1] - cut[0] - gone[0] + later)

    def find(self, name: str) -> int:
        """The first place whose id is `name`, or −1. (Who removes an id removes all that have it.)"""
        position = self.base.find(name)
        if position >= 0 and not self.gaps.holds(np.array([position]))[0]:
            return int(self.gaps.places(np.array([position]))[0])
        later = -1 if self.added is None else self.added.find(name)
        return later if later < 0 else later + self.kept

    def nearest(self, name: str) -> list[str]:
        """At most one id that resembles `name`; none where that was removed."""
        later = [] if self.added is None else self.added.nearest(name)
        return [near for near in later or self.base.nearest(name) if self.find(near) >= 0]

    def located(self, names: Collection[bytes]) -> tuple[np.ndarray, set[bytes]]:
        """The rows of all items whose id is one of `names`, ascending, and those of the names that there are."""
        rows, found = [np.empty(0, np.int64)], set[bytes]()
        for part, gaps in ((self.base, self.gaps), (self.added, _NONE)):
            hits = [] if part is None else list(items.positions(part, names))
            if part is None or not hits:
                continue
            positions = np.array([position for position, _ in hits], np.int64)
            there = ~gaps.holds(positions)
            rows.append(part.rows[positions[there]])
            found |= {name for (_, name), is_there in zip(hits, there.tolist(), strict=True) if is_there}
        return np.unique(np.concatenate(rows)), found

    def check(self, queries: Records) -> None:
        """Raises UsageError unless queries are of the same kind."""
        for what in ("codes", "labels", "labels_coarse"):
            a, b = getattr(queries, what), getattr(self.base, what)
            if a is not None and b is not None and a.shape[1:] != b.shape[1:]:
                raise UsageError(
                    f"{what.replace('labels_coarse', 'coarse labels')} of the queries and of the database differ in "
                    f"width: {a.shape} and {b.shape}"
                )

    def without_removed(self, queries: Records) -> Records:
        """Queries whose ground truth names nothing that was removed."""
        gone = self.base.rows[self.gaps.removed]
        if not len(gone) or not queries.groundtruth:
            return queries
        lists = {
            name: Ragged.of(rows[~items.among(rows, gone)] for rows in (each[place] for place in range(len(each))))
            for name, each in queries.groundtruth.items()
        }
        return Records(queries.codes, queries.rows, queries.ids, queries.labels, queries.labels_coarse, lists)

    def _gather(self, places: np.ndarray, base: np.ndarray, added: np.ndarray | None) -> np.ndarray:
        if added is None:
            found: np.ndarray = base[self.gaps.positions(places)]
            return found
        old = places < self.kept
        if old.all():
            return self._gather(places, base, None)
        out = np.empty((*places.shape, *base.shape[1:]), base.dtype)
        out[old], out[~old] = base[self.gaps.positions(places[old])], added[places[~old] - self.kept]
        return out


def _read_added(folder: Path, change: Change, base: Records, gone: np.ndarray) -> Records:
    """What a change added, without the rows that are gone.

    It is a copy: each mapped file keeps a descriptor open, and there may be more changes than a process may have.
    """
    path, said = folder / change.added_name, change.added
    assert said is not None
    try:
        path.stat()
        held = file_format.read(path, verify=True)
    except FileNotFoundError:
        raise _missing(path) from None
    try:
        entries = Records.of_arrays(held.codes, "database", held.arrays)
    except (KeyError, UsageError) as error:
        raise SdcError(f"{path} is damaged: its arrays do not fit together ({error}); {AGAIN}") from None
    if (held.checksum, len(entries)) != (said.checksum, said.count):
        raise SdcError(f"{path} is not the file that the manifest beside it names; {AGAIN}")
    for name in ("codes", "labels", "labels_coarse"):
        ours, theirs = getattr(entries, name), getattr(base, name)
        if (ours is None) != (theirs is None) or (ours is not None and ours.shape[1:] != theirs.shape[1:]):
            raise SdcError(f"{path} is damaged: its {name} are not like those of the index; {AGAIN}")
    return items.joined([(entries, ~items.among(entries.rows, gone))])


def _read_removed(folder: Path, change: Change) -> np.ndarray:
    path, said = folder / change.removed_name, change.removed
    if said is None:
        return np.empty(0, np.int64)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise SdcError(f"cannot read {path}: {error.strerror}; the index cannot be read without it") from None
    if checksum(data) != said.checksum or len(data) != 8 * said.count:
        raise SdcError(f"{path} is damaged: its checksum does not match; {AGAIN}")
    return np.frombuffer(data, "<i8").astype(np.int64, copy=False)


def _missing(path: Path) -> SdcError:
    return SdcError(f"{path} is missing, but the manifest beside it names it: {AGAIN}")


def rows_as_bytes(rows: Sequence[int] | np.ndarray) -> bytes:
    """What a file of removed rows holds."""
    return np.asarray(rows, "<i8").tobytes()
