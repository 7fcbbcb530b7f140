"""One process's share of an extraction: claim a part, load its images, embed them, write the part."""

from __future__ import annotations

import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, log
from sdc.extract.image_loader import ImageBatch, ImageLoader
from sdc.extract.parts.leases import Leases
from sdc.extract.parts.part_set import Parts
from sdc.extract.store import FEATURES
from sdc.progress import Progress

POLL = 0.5  # seconds between two looks at what other processes do
ASSEMBLY = "assembly"  # the lease of the process that puts the parts together


@dataclass
class ClaimedPart:
    """A part that this process makes: what has been embedded of it.

    Attributes:
        number: the part's.
        remaining: batches that are still to be embedded.
        arrays: by the names they have in feats.h5, a block for each embedded batch.
        rows: the rows of each of these blocks.
        skipped: (row, reason) of images that cannot be read.
    """

    number: int
    remaining: int
    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    rows: list[np.ndarray] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)

    def add(self, batch: ImageBatch, arrays: dict[str, np.ndarray]) -> None:
        """Takes the next batch, and what the backbone made of it."""
        self.remaining -= 1
        self.rows.append(batch.rows)
        self.skipped += batch.skipped
        for name, array in arrays.items():
            self.arrays.setdefault(name, []).append(array)

    def joined(self) -> dict[str, np.ndarray]:
        """Each array in one piece. The blocks are given up one array at a time: tokens are large."""
        return {name: np.concatenate(self.arrays.pop(name)) for name in list(self.arrays)}


class PartWorker:
    """Makes parts until none is absent, beside other processes that do the same.

    Args:
        loader: of the images of `parts.listing`.
        embed: makes of a batch the arrays of its rows, by the names they have in feats.h5.
        batch_size: images in a batch.
        progress: in images; those of parts that other processes make count as well.
    """

    def __init__(
        self,
        parts: Parts,
        leases: Leases,
        loader: ImageLoader,
        embed: Callable[[ImageBatch], dict[str, np.ndarray]],
        batch_size: int,
        progress: Progress,
    ) -> None:
        self.parts, self.leases, self.loader, self.embed = parts, leases, loader, embed
        self.batch_size, self.progress = batch_size, progress
        self._uncounted = set(parts.absent())  # parts whose images `progress` has not counted
        self._embedded = self._failed = self._by_others = 0  # images
        self._first_failure = ""
        self._announced: set[str] = set()  # processes that we have said we wait for
        progress.total = self._images(self._uncounted)

    def run(self) -> None:
        """Makes parts until all are there. Those that others make are waited for, or taken over if these are gone.

        Raises:
            SdcError: this process made all parts, and could read no image at all; the parts are removed.
        """
        written = 0
        while absent := self.parts.absent():
            count = self._make(absent)
            if not count:
                self._wait(absent)
            written += count
        self._count_others(self._uncounted)
        if written == len(self.parts) and not self._embedded:
            shutil.rmtree(self.parts.folder, ignore_errors=True)  # there is nothing to resume from
            total = len(self.parts.listing.ids)
            raise SdcError(f"none of the {total} images can be read; the first: {self._first_failure}")

    def _make(self, absent: Iterable[int]) -> int:
        """Makes those of the absent parts that no other process has claimed; returns how many.

        A part is claimed as soon as the loader has room for its images, so that these load while the part before it
        is embedded. No batch crosses the border of two parts.
        """
        written, unclaimed, claimed = 0, iter(absent), deque[ClaimedPart]()
        while True:
            while self.loader.has_room and (part := self._claim_next(unclaimed)):
                claimed.append(part)
            if not claimed:
                return written
            batch = self.loader.take()
            claimed[0].add(batch, self.embed(batch))
            self._failed += len(batch.skipped)
            self._advance(len(batch.rows) + len(batch.skipped))
            if not claimed[0].remaining:
                self._write(claimed.popleft())
                written += 1

    def _claim_next(self, unclaimed: Iterator[int]) -> ClaimedPart | None:
        """Claims the next part that is free, and has its images loaded; None where no part is free."""
        for number in unclaimed:
            if not self.leases.take(_lease(number)):
                continue
            if self.parts.has(number):  # another process has finished it in the meantime
                self.leases.release(_lease(number))
                self._count_others({number})
                continue
            rows = self.parts.rows(number)
            batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
            self.loader.submit(batches)
            return ClaimedPart(number, len(batches))
        return None

    def _write(self, part: ClaimedPart) -> None:
        arrays, rows = part.joined(), np.concatenate(part.rows)
        skipped = [(self.parts.listing.ids[row], reason) for row, reason in part.skipped]
        self.parts.write(part.number, arrays.pop(FEATURES), rows, skipped, arrays)
        self.leases.release(_lease(part.number))
        self._uncounted.discard(part.number)
        self._embedded += len(rows)
        if skipped and not self._first_failure:
            self._first_failure = ": ".join(skipped[0])

    def _wait(self, absent: Iterable[int]) -> None:
        """Waits a moment for the processes that make the absent parts; says once which these are."""
        self._count_others(self._uncounted.difference(absent))
        holders = self.leases.holders(map(_lease, absent))
        if not self._announced.issuperset(holders):
            shares = ", ".join(f"{count} of {owner}" for owner, count in holders.items())
            log.info("waiting for parts that others make: %s", shares)
            self._announced.update(holders)
        time.sleep(POLL)

    def _count_others(self, numbers: set[int]) -> None:
        count = self._images(numbers & self._uncounted)
        self._uncounted = self._uncounted - numbers
        self._by_others += count
        self._advance(count)

    def _advance(self, count: int) -> None:
        others = f", {self._by_others} by other processes" if self._by_others else ""
        self.progress.advance(count, f"{self._failed} failed{others}")

    def _images(self, numbers: Iterable[int]) -> int:
        return sum(len(self.parts.rows(number)) for number in numbers)


def assemble_once(parts: Parts) -> Path:
    """Has one of the processes that share an extraction put feats.h5 together; the others wait for it.

    Raises:
        SdcError: as `Parts.assemble`.
    """
    holders: Counter[str] = Counter()
    with Leases(parts.folder) as leases:
        while not parts.finished():
            if leases.take(ASSEMBLY):
                return parts.assemble()
            if not holders and (holders := leases.holders([ASSEMBLY])):
                log.info("waiting for %s, which puts %s together", *holders, parts.out)
            time.sleep(POLL)
    return parts.out


def _lease(number: int) -> str:
    return f"{number:06d}"
