"""The batches of the training loop, in a seeded random order.

Rows that fit in memory are permuted as a whole. A larger memory map is shuffled in blocks, since single rows at random
are slow from a disk: the blocks of `BLOCK` bytes of consecutive training rows are permuted, as many of them as make
`WINDOW` bytes are read at a time, and the rows of such a window are permuted among each other, while a thread reads
the next. A window holds hundreds of blocks from all over the file, so that a batch is a fair sample even where the
file is sorted by label.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sdc.errors import log

IN_MEMORY = 1 << 30  # bytes of training rows; a memory map with more is shuffled in blocks
BLOCK = 1 << 18  # bytes read in one go: below, a disk's throughput falls; above, it hardly grows
WINDOW = 1 << 27  # bytes shuffled at a time; one window is trained on while the next is read
ADVISED = 8  # blocks the system is asked to read before they are copied

T = TypeVar("T")
U = TypeVar("U")


class Batch(NamedTuple):
    """`rows` (B,) int64 row numbers of `features` (B, d), which are as stored; (B, V, d) with further views.

    `extras` are what else the run reads of these rows, by name.
    """

    rows: np.ndarray
    features: np.ndarray
    extras: Mapping[str, np.ndarray]


class Batches:
    """The batches of a run. Their order is a function of seed and epoch alone.

    The limits above are constants rather than a share of the free memory, so that a run gives the same model anywhere.

    Args:
        features: (N, d), an array or a memory map.
        rows: (n,) row numbers to train on, ascending.
        batch_size: rows of a batch, at most n; the last, incomplete batch of an epoch is dropped.
        seed: of the order.
        rank, ranks: of `ranks` processes that share each batch equally, the one that this is.
        further: more views of the rows, each (N, d) like the features.
        extras: what else to read of the rows, by name, such as tokens (N, T, w): arrays or memory maps.
    """

    def __init__(
        self,
        features: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        further: Sequence[np.ndarray] = (),
        extras: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.steps = len(rows) // batch_size
        share = batch_size // ranks
        self._share = slice(rank * share, (rank + 1) * share)
        self._features = np.asarray(features)  # a memory map's own indexing is slower
        self._further = [np.asarray(view) for view in further]
        self._extras = {name: np.asarray(array) for name, array in (extras or {}).items()}
        self._row_bytes = max(1, features.shape[1] * features.itemsize)
        self._block = max(1, BLOCK // self._row_bytes)  # rows
        # A map's own pages, not a view that may begin anywhere in them.
        large = isinstance(features, np.memmap) and len(rows) * self._row_bytes > IN_MEMORY
        pages: Any = features.base if large and features.flags.c_contiguous else None
        self._map: mmap.mmap | None = pages if isinstance(pages, mmap.mmap) else None
        self._offset: int = getattr(features, "offset", 0) % mmap.ALLOCATIONGRANULARITY  # of the first row in it
        if self._map is not None:
            log.info(
                "%.1f GB of training rows are read from the disk as needed, %d MB at a time in blocks of %d rows",
                len(rows) * self._row_bytes / 1e9, WINDOW >> 20, self._block,
            )  # fmt: skip

    def epoch(self, epoch: int, step: int = 0) -> Generator[Batch]:
        """The batches of an epoch from `step` on. Close the iterator where it is left early: this ends its thread."""
        rng = np.random.default_rng((self.seed, epoch))
        if self._map is None:  # gathering takes a fraction of what handing over from a thread does
            order = rng.permutation(self.rows)[: self.steps * self.batch_size].reshape(-1, self.batch_size)
            for rows in order[step:, self._share]:
                yield self._batch(rows, self._with_views(rows, self._features[rows]))
        else:
            with contextlib.closing(_ahead(self._read, self._windows(rng, step))) as windows:
                for window in windows:
                    yield from map(self._batch, *window)

    def _batch(self, rows: np.ndarray, features: np.ndarray) -> Batch:
        # A row of tokens is about as long as a block of features: it is read when its batch is due.
        return Batch(rows, features, {name: array[rows] for name, array in self._extras.items()})

    def _windows(self, rng: np.random.Generator, step: int) -> Iterator[np.ndarray]:
        """Row numbers (k, B / ranks) of the k batches that are cut from each window."""
        size = self._block
        blocks = rng.permutation(-(-len(self.rows) // size))
        # Windows of equal size: a short last one would hold too few blocks to mix.
        count = min(max(1, round(len(self.rows) * self._row_bytes / WINDOW)), len(blocks))
        order = self.rows[:0]
        for window in np.array_split(blocks, count):
            rows = np.concatenate([self.rows[block * size : (block + 1) * size] for block in window])
            order = np.concatenate([order, rng.permutation(rows)])
            whole = order[: len(order) // self.batch_size * self.batch_size].reshape(-1, self.batch_size)
            order = order[whole.size :]
            if step < len(whole):
                yield whole[step:, self._share]
            step = max(0, step - len(whole))

    def _read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`rows` and their features, of shape (*rows.shape, d)."""
        flat = rows.ravel()
        order = np.argsort(flat)
        blocks = np.split(order, np.flatnonzero(np.diff(flat[order] // self._block)) + 1)  # each within BLOCK bytes
        out = np.empty((len(flat), self._features.shape[1]), self._features.dtype)
        for block in blocks[:ADVISED]:
            self._advise(flat[block])
        for number, block in enumerate(blocks):
            for coming in blocks[number + ADVISED : number + ADVISED + 1]:
                self._advise(flat[coming])
            out[block] = self._features[flat[block]]
        return rows, self._with_views(rows, out.reshape(*rows.shape, -1))

    def _with_views(self, rows: np.ndarray, features: np.ndarray) -> np.ndarray:
        """(…, d) -> (…, V, d) where there are further views."""
        return np.stack([features, *(view[rows] for view in self._further)], -2) if self._further else features

    def _advise(self, rows: np.ndarray) -> None:
        """Has the system read from the first to the last of these ascending rows, without waiting for it."""
        assert self._map is not None
        if hasattr(self._map, "madvise"):
            start = self._offset + rows[0] * self._row_bytes
            start -= start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, self._offset + (rows[-1] + 1) * self._row_bytes - start)


def _ahead(work: Callable[[T], U], items: Iterable[T]) -> Generator[U]:
    """work(item) for each item, in their order; the next is done by a thread while the caller has the one before."""
    with ThreadPoolExecutor(1, "batches") as pool:
        coming: Future[U] | None = None
        for item in items:
            done, coming = coming, pool.submit(work, item)
            if done is not None:
                yield done.result()
        if coming is not None:
            yield coming.result()
