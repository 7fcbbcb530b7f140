"""The loader that works ahead: what it takes on, and in which order it hands batches out."""

from __future__ import annotations

import threading

from PIL import Image

from sdc.extract.image_loader import ImageLoader
from sdc.extract.images import Preprocessing

SQUARES = Preprocessing(2, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def numbered(row: int) -> Image.Image:
    return Image.new("L", (2, 2), row)


def test_it_has_room_until_its_threads_are_busy() -> None:
    with ImageLoader(numbered, SQUARES, workers=2) as loader:
        submitted = 0
        while loader.has_room:
            loader.submit([[submitted]])
            submitted += 1
        assert submitted == 3  # one for each thread, and the one that is taken next
        assert loader.take().rows.tolist() == [0]
        assert loader.has_room


def test_many_groups_at_once_are_loaded_a_few_at_a_time() -> None:
    opened: list[int] = []

    def open_image(row: int) -> Image.Image:
        opened.append(row)
        return numbered(row)

    with ImageLoader(open_image, SQUARES, workers=1) as loader:
        loader.submit([row] for row in range(50))
        assert not loader.has_room
        assert [loader.take().rows.tolist() for _ in range(5)] == [[row] for row in range(5)]
        assert len(opened) <= 7
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]
    assert len(opened) <= 7
