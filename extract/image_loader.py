"""Batches of prepared images, loaded in threads ahead of who takes them."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from sdc.devices import cpu_count
from sdc.extract.augment import Augmentation
from sdc.extract.images import Preprocessing, eight_bits, upright

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ImageBatch:
    """Some images, ready for a backbone.

    Attributes:
        pixels: (n, S, S, 3) uint8; none where images keep their shape.
        rows: (n,) int64, the rows they belong to.
        skipped: (row, reason) of those that could not be read.
        views: (V, n, S, S, 3) uint8, augmented views of them, where these were asked for.
        scaled: of each of the n images its (h, w, 3) uint8 at each scale, where images keep their shape.
    """

    pixels: np.ndarray
    rows: np.ndarray
    skipped: list[tuple[int, str]]
    views: np.ndarray
    scaled: list[list[np.ndarray]] = field(default_factory=list)


def load_batch(
    open_image: Callable[[int], Image],
    rows: Sequence[int],
    preprocessing: Preprocessing,
    augmentation: Augmentation | None = None,
) -> ImageBatch:
    """Reads and prepares the images of `rows`; those that cannot be read are skipped, with the reason."""
    size, squares = preprocessing.size, 0 if preprocessing.scales else len(rows)
    pixels = np.empty((1 + (augmentation.views if augmentation else 0), squares, size, size, 3), np.uint8)
    scaled: list[list[np.ndarray]] = []
    loaded: list[int] = []
    skipped: list[tuple[int, str]] = []
    for row in rows:
        try:
            with open_image(row) as image:
                if preprocessing.scales:
                    scaled.append(preprocessing.scaled(image))
                else:
                    pixels[0, len(loaded)] = preprocessing.pixels(image)
                if augmentation:
                    pixels[1:, len(loaded)] = augmentation(eight_bits(upright(image)), row)
        except MemoryError:
            raise
        except Exception as error:  # PIL's decoders raise whatever damaged bytes lead them to
            skipped.append((row, _reason(error)))
        else:
            loaded.append(row)
    return ImageBatch(pixels[0, : len(loaded)], np.array(loaded, np.int64), skipped, pixels[1:, : len(loaded)], scaled)


def _reason(error: Exception) -> str:
    """The error in one line, which does not depend on the folder of the file."""
    from PIL import Image as Images
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged at its beginning"
    if isinstance(error, (Images.DecompressionBombWarning, Images.DecompressionBombError)):
        return f"more than {(Images.MAX_IMAGE_PIXELS or 0) // 1_000_000} million pixels: make it smaller"
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(text.encode("utf-8", "replace").decode().split())


class ImageLoader:
    """Loads batches of images in threads, in the order they were asked for, some batches ahead of who takes them.

    Threads do: PIL decodes and resizes without holding the interpreter's lock. Images above the size from which PIL
    warns, 89 million pixels, are not decoded but skipped: one in each thread might fill the memory. Used as a context,
    at whose end what is not loaded yet is dropped.

    Args:
        open_image: the image of a row, as of `sdc.extract.datasets.Dataset`.
        workers: how many threads, and how many batches ahead; one for each CPU by default.
        augmentation: makes further views, if any.
    """

    def __init__(
        self,
        open_image: Callable[[int], Image],
        preprocessing: Preprocessing,
        workers: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._load = functools.partial(load_batch, open_image, preprocessing=preprocessing, augmentation=augmentation)
        self._workers = workers or cpu_count()
        self._waiting: deque[Sequence[int]] = deque()
        self._loading: deque[Future[ImageBatch]] = deque()
        self._context = contextlib.ExitStack()

    def __enter__(self) -> ImageLoader:
        from PIL.Image import DecompressionBombWarning

        self._context.enter_context(warnings.catch_warnings())
        self._pool = self._context.enter_context(ThreadPoolExecutor(self._workers, thread_name_prefix="images"))
        warnings.simplefilter("error", DecompressionBombWarning)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in self._loading:
            future.cancel()
        self._context.close()

    @property
    def has_room(self) -> bool:
        """Whether threads would be idle before the next `take` if nothing more were submitted."""
        return not self._waiting and len(self._loading) <= self._workers

    def submit(self, groups: Iterable[Sequence[int]]) -> None:
        """Asks for a batch of the images of each group of rows."""
        self._waiting.extend(groups)
        self._fill()

    def take(self) -> ImageBatch:
        """The next batch; waits until it is loaded."""
        self._fill()
        return self._loading.popleft().result()

    def _fill(self) -> None:
        while self._waiting and len(self._loading) <= self._workers:
            self._loading.append(self._pool.submit(self._load, self._waiting.popleft()))


def batches(
    open_image: Callable[[int], Image],
    groups: Iterable[Sequence[int]],
    preprocessing: Preprocessing,
    workers: int | None = None,
    augmentation: Augmentation | None = None,
) -> Generator[ImageBatch, None, None]:
    """A batch for each group of rows, in their order, loaded by an `ImageLoader`."""
    with ImageLoader(open_image, preprocessing, workers, augmentation) as loader:
        ahead = 0
        for rows in groups:
            loader.submit([rows])
            ahead += 1
            while not loader.has_room:
                yield loader.take()
                ahead -= 1
        for _ in range(ahead):
            yield loader.take()
