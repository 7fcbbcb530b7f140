"""An extraction at work: the parts that no other process makes, one after another."""

from __future__ import annotations

import itertools
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, log
from sdc.extract.encoder import Encoder
from sdc.extract.images import Batch
from sdc.extract.parts.claims import Claims
from sdc.extract.parts.part_set import Parts
from sdc.extract.store.store import FEATURES, TOKENS, view_name
from sdc.progress import Progress

POLL = 0.5  # seconds between two looks at what other processes do
ASSEMBLY = "assembly"  # the claim of the process that puts the parts together


class Maker:
    """What this process does of an extraction, with the progress of all processes that share it.

    Args:
        progress: in images; those of parts that other processes make count as well.
        size: images in a batch.
        tokens: keep the patch tokens as well.
    """

    def __init__(
        self, parts: Parts, claims: Claims, progress: Progress, encoder: Encoder, size: int, *, tokens: bool
    ) -> None:
        self.parts, self.claims, self.progress, self.encoder = parts, claims, progress, encoder
        self.size, self.tokens = size, tokens
        self.made = 0  # parts, by this process
        self._plan: deque[tuple[int, int]] = deque()  # parts whose images are loaded, and how many batches each has
        self._uncounted = set(parts.absent())
        self._embedded = self._failed = self._others = 0
        self._failure = ""
        self._waits_for: set[str] = set()
        progress.total = self._images(self._uncounted)

    def groups(self, absent: Iterable[int]) -> Iterator[range]:
        """The rows of batches to be loaded, of parts that are claimed just before their first batch is asked for."""
        for number in absent:
            if not self.claims.take(_claim(number)):
                continue
            if self.parts.has(number):  # another process finished it since `absent` was listed
                self.claims.release(_claim(number))
                self._count_others({number})
                continue
            rows = self.parts.rows(number)
            groups = [rows[start : start + self.size] for start in range(0, len(rows), self.size)]
            self._plan.append((number, len(groups)))
            yield from groups

    def make(self, first: Batch, loaded: Iterator[Batch]) -> None:
        """Makes the part that the `first` batch is of, whose further ones `loaded` gives next."""
        number, count = self._plan.popleft()
        made, kept, skipped = [], [], []
        for batch in itertools.chain([first], itertools.islice(loaded, count - 1)):
            made.append(_embedded(batch, self.encoder, tokens=self.tokens))
            kept.append(batch.rows)
            skipped += [(self.parts.listing.ids[row], reason) for row, reason in batch.skipped]
            self._failed += len(batch.skipped)
            self._advance(len(batch.rows) + len(batch.skipped))
        # Popped, so that the batches' arrays go as soon as they are joined: tokens are large.
        arrays = {name: np.concatenate([blocks.pop(name) for blocks in made]) for name in list(made[0])}
        rows = np.concatenate(kept)
        self.parts.write(number, arrays.pop(FEATURES), rows, skipped, arrays)
        self.claims.release(_claim(number))
        self._uncounted.discard(number)
        self.made += 1
        self._embedded += len(rows)
        self._failure = self._failure or ": ".join(skipped[0] if skipped else ())

    def wait(self, absent: Iterable[int]) -> None:
        """Lets some time pass for others, who make all that is `absent`; says who they are."""
        self._count_others(self._uncounted.difference(absent))
        holders = self.claims.holders(map(_claim, absent))
        if not self._waits_for.issuperset(holders):
            parts = ", ".join(f"{count} of {owner}" for owner, count in holders.items())
            log.info("waiting for parts that others make: %s", parts)
            self._waits_for.update(holders)
        time.sleep(POLL)

    def finish(self) -> None:
        """To be called when no part is absent.

        Raises:
            SdcError: this process made them all, and no image at all could be read; the parts are gone then.
        """
        self._count_others(self._uncounted)
        if self.made == len(self.parts) and not self._embedded:
            shutil.rmtree(self.parts.folder, ignore_errors=True)  # nothing to go on from
            raise SdcError(f"none of the {len(self.parts.listing.ids)} images can be read; the first: {self._failure}")

    def _count_others(self, numbers: set[int]) -> None:
        count = self._images(numbers & self._uncounted)
        self._uncounted = self._uncounted - numbers
        self._others += count
        self._advance(count)

    def _advance(self, count: int) -> None:
        others = f", {self._others} by other processes" if self._others else ""
        self.progress.advance(count, f"{self._failed} failed{others}")

    def _images(self, numbers: Iterable[int]) -> int:
        return sum(len(self.parts.rows(number)) for number in numbers)


def assembled(parts: Parts) -> Path:
    """feats.h5, put together by one of the processes that share it; the others wait.

    Raises:
        SdcError: as `Parts.assemble`.
    """
    waits_for: Counter[str] = Counter()
    with Claims(parts.folder) as claims:
        while not parts.finished():
            if claims.take(ASSEMBLY):
                return parts.assemble()
            if not waits_for and (waits_for := claims.holders([ASSEMBLY])):
                log.info("waiting for %s, which puts %s together", *waits_for, parts.out)
            time.sleep(POLL)
    return parts.out


def _claim(number: int) -> str:
    return f"{number:06d}"


def _embedded(batch: Batch, encoder: Encoder, *, tokens: bool) -> dict[str, np.ndarray]:
    """What the backbone makes of a batch, by the names of the store's datasets.

    Each view goes through it in batches of its own, so that the plain one's features do not depend on the others.
    """
    views = {view_name(number): encoder(pixels) for number, pixels in enumerate(batch.views, 1)}
    if not tokens:
        return {FEATURES: encoder.features(batch), **views}
    features, patches = encoder.with_tokens(batch.pixels)
    return {FEATURES: features, **views, TOKENS: patches}
