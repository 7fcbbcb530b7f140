"""Preprocessing against an independent computation, colours, orientation, damaged files, and the loader."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdc.errors import SdcError, UsageError
from sdc.extract.image_loader import batches, load_batch
from sdc.extract.images import Preprocessing

HALF = (0.5, 0.5, 0.5)


def preprocessing(size: int, resize: str) -> Preprocessing:
    return Preprocessing(size, resize, HALF, HALF)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def cubic(x: float) -> float:
    """The cubic convolution kernel of Keys (1981), a = -1/2."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resized_rows(image: np.ndarray, length: int) -> np.ndarray:
    """The first axis resampled to `length`, antialiased: the kernel widens with the reduction. Rounded to bytes."""
    scale = len(image) / length
    stretch = max(scale, 1.0)
    out = np.empty((length, *image.shape[1:]), np.uint8)
    for y in range(length):
        centre = (y + 0.5) * scale
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), len(image))
        weights = np.array([cubic((row + 0.5 - centre) / stretch) for row in range(first, last)])
        total = np.tensordot(weights / weights.sum(), image[first:last].astype(np.float64), 1)
        out[y] = np.floor(total + 0.5).clip(0, 255)
    return out


def resized(image: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Rows first and columns first: which, is up to the version of PIL, and bytes between them make a difference."""
    turned = image.transpose(1, 0, 2)
    return [
        resized_rows(resized_rows(turned, width).transpose(1, 0, 2), height),
        resized_rows(resized_rows(image, height).transpose(1, 0, 2), width).transpose(1, 0, 2),
    ]


@pytest.mark.parametrize("shape", [(28, 28), (33, 20), (9, 50)])
def test_squash_is_bicubic_to_the_square(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    found = preprocessing(14 + 3, "squash").pixels(Image.fromarray(image))
    assert any(np.array_equal(found, expected) for expected in resized(image, 17, 17))


@pytest.mark.parametrize(
    ("shape", "whole", "corner"),
    [((33, 20), (26, 16), (6, 1)), ((21, 39), (16, 29), (1, 8)), ((30, 30), (16, 16), (1, 1))],
)
def test_crop_takes_the_centre(shape: tuple[int, int], whole: tuple[int, int], corner: tuple[int, int]) -> None:
    # The shorter side becomes 14 * 256 / 224 = 16 pixels.
    image = noise(*shape)
    found = preprocessing(14, "crop").pixels(Image.fromarray(image))
    top, left = corner
    cuts = [expected[top : top + 14, left : left + 14] for expected in resized(image, *whole)]
    assert any(np.array_equal(found, cut) for cut in cuts)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([7, 14, 23, 56]))
def test_crop_agrees_with_torchvision(height: int, width: int, size: int) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = Image.fromarray(noise(height, width))
    usual = Compose([Resize(round(size * 256 / 224), InterpolationMode.BICUBIC), CenterCrop(size)])
    np.testing.assert_array_equal(preprocessing(size, "crop").pixels(image), np.asarray(usual(image)))


def test_a_line_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(ValueError, match="differ too much"):
        preprocessing(224, "crop").pixels(Image.new("L", (60000, 1)))


def flat(mode: str, value: object, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new(mode, size, value)  # type: ignore[arg-type]


def sixteen_bits(value: int) -> Image.Image:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint16)).save(stream, "png")
    return Image.open(stream)


def palette(transparent: bool) -> Image.Image:
    image = flat("P", 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    stream = io.BytesIO()
    image.save(stream, "png", **({"transparency": 1} if transparent else {}))
    return Image.open(stream)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (flat("RGB", (1, 2, 3)), (1, 2, 3)),
        (flat("L", 77), (77, 77, 77)),
        (flat("1", 1), (255, 255, 255)),
        (flat("RGBA", (1, 2, 3, 255)), (1, 2, 3)),
        (flat("RGBA", (1, 2, 3, 0)), (255, 255, 255)),
        (flat("RGBA", (0, 0, 0, 51)), (204, 204, 204)),
        (flat("LA", (9, 0)), (255, 255, 255)),
        (flat("La", (9, 255)), (9, 9, 9)),
        (palette(False), (10, 20, 30)),
        (palette(True), (255, 255, 255)),
        (flat("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
        (sixteen_bits(0), (0, 0, 0)),
        (sixteen_bits(257 * 100), (100, 100, 100)),
        (sixteen_bits(257 * 100 + 128), (100, 100, 100)),
        (sixteen_bits(257 * 100 + 129), (101, 101, 101)),
        (sixteen_bits(65535), (255, 255, 255)),
        (flat("I", 257 * 3), (3, 3, 3)),
    ],
    ids=lambda value: f"{value.mode} {value.getpixel((0, 0))}" if isinstance(value, Image.Image) else "",
)
def test_any_colours_become_rgb(image: Image.Image, colour: tuple[int, int, int]) -> None:
    found = preprocessing(6, "squash").pixels(image)
    np.testing.assert_array_equal(found, np.broadcast_to(np.uint8(colour), (6, 6, 3)))


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        preprocessing(6, "squash").pixels(flat("F", 0.5))


# How a camera stores the upright picture for each value of the EXIF tag "orientation".
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_honoured(orientation: int) -> None:
    upright = noise(8, 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(stream, "png", exif=exif)
    found = preprocessing(7, "squash").pixels(Image.open(stream))
    np.testing.assert_array_equal(found, preprocessing(7, "squash").pixels(Image.fromarray(upright)))


def test_the_record_says_everything() -> None:
    one = Preprocessing(96, "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert one.record() == {
        "size": 96, "resize": "squash", "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
    }  # fmt: skip
    assert Preprocessing.from_record(one.record()) == one


@pytest.mark.parametrize("change", [{"interpolation": "nearest"}, {"size": None}, {"mean": 3}, {"resize": "stretch"}])
def test_a_foreign_record_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SdcError, match=r"preprocessing cannot be repeated|unknown resize"):
        Preprocessing.from_record({**preprocessing(96, "squash").record(), **change})


def test_an_unknown_resize_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'crop'"):
        preprocessing(96, "cropp")


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise(40, 40, seed)).save(stream, "jpeg")
    return stream.getvalue()


def test_damaged_images_are_left_out_with_the_reason() -> None:
    files = [jpeg(0), b"", jpeg(1)[:-300], jpeg(2), b"<html>", jpeg(3)[:20]]

    def open_image(row: int) -> Image.Image:
        return Image.open(io.BytesIO(files[row]))

    batch = load_batch(open_image, range(6), preprocessing(8, "squash"))
    assert batch.rows.tolist() == [0, 3]
    assert batch.pixels.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(batch.pixels[1], preprocessing(8, "squash").pixels(open_image(3)))
    assert [row for row, _ in batch.skipped] == [1, 2, 4, 5]
    reasons = dict(batch.skipped)
    assert "truncated" in reasons[2]
    assert reasons[4] == "not an image, or damaged at its beginning"
    assert all(reason and "\n" not in reason for reason in reasons.values())


def numbered(row: int) -> Image.Image:
    return flat("L", row)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order(workers: int) -> None:
    groups = [range(3), range(3, 4), range(4, 40), range(100, 102)]
    found = list(batches(numbered, groups, preprocessing(2, "squash"), workers))
    assert [batch.rows.tolist() for batch in found] == [list(group) for group in groups]
    for batch in found:
        np.testing.assert_array_equal(batch.pixels[:, 0, 0, 0], batch.rows)


def test_the_loader_works_ahead_but_not_without_bound() -> None:
    asked: list[int] = []
    ahead = threading.Event()

    def groups():  # type: ignore[no-untyped-def]
        for number in range(100):
            asked.append(number)
            if number >= 2:
                ahead.set()
            yield range(number, number + 1)

    loader = batches(numbered, groups(), preprocessing(2, "squash"), workers=2)
    next(loader)
    assert ahead.is_set()
    assert len(asked) <= 4
    loader.close()
    assert len(asked) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]
