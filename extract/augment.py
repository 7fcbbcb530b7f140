"""Augmented views of images, for methods that learn from two views of each (Ng et al. 2023, its supplement)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from PIL.Image import Image

SHARE = (0.5, 1.0)  # of the image's area that a crop keeps
ASPECT = 4 / 3  # of a crop at most, width to height or height to width
TRIES = 10  # crops that are drawn until one fits into the image
FLIP = 0.5  # probabilities of each step
JITTER = 0.7
GREY = 0.2
STRENGTH = 0.4  # brightness, contrast and saturation are multiplied by 1 - STRENGTH to 1 + STRENGTH
HUE = 0.1  # of a turn, either way
SIGMA = (0.1, 2.0)  # of the 3 x 3 Gaussian, in pixels


@dataclass(frozen=True)
class Augmentation:
    """Makes augmented views of a set's images.

    What is drawn for a view depends on the seed, the image's id and the view's number alone: neither threads nor
    batches nor an interruption change it, and a sample has the very views that its images have in the whole set.

    Attributes:
        views: V, how many of each image, numbered from 1; view 0 is the plain one.
        size: S, the side of the square in pixels.
        seed: 0 or more.
        ids: of the set's rows.
    """

    views: int
    size: int
    seed: int
    ids: Sequence[str]

    @staticmethod
    def record() -> dict[str, Any]:
        """What a feature store records of it, beside the number of views and the seed."""
        return {
            "crop": list(SHARE), "aspect": ASPECT, "flip": FLIP, "jitter": JITTER, "strength": STRENGTH, "hue": HUE,
            "grey": GREY, "blur": list(SIGMA), "interpolation": "bicubic",
        }  # fmt: skip

    def __call__(self, image: Image, row: int) -> np.ndarray:
        """The views of the image of this row, which is in mode L or RGB: (V, S, S, 3) uint8."""
        key = xxhash.xxh3_64_intdigest(self.ids[row].encode())
        rngs = [np.random.default_rng([self.seed, number, key]) for number in range(1, self.views + 1)]
        return np.stack([augmented(image, self.size, rng) for rng in rngs])


def augmented(image: Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """One view of an image in mode L or RGB: crop, flip, colours, grey, blur; (size, size, 3) uint8."""
    from PIL.Image import Resampling, Transpose

    box = crop_box(*image.size, rng)
    image = image.resize((size, size), Resampling.BICUBIC, box=box)
    if rng.random() < FLIP:
        image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
    image = image.convert("RGB")
    if rng.random() < JITTER:
        image = jittered(image, rng)
    if rng.random() < GREY:
        image = image.convert("L").convert("RGB")
    return blurred(np.asarray(image), rng.uniform(*SIGMA))


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Where to crop: left, upper, right, lower.

    Share of the area and aspect (its logarithm) are uniform among those that fit into the image; where none of
    `TRIES` does, as in panoramas, it is the largest box in the centre whose aspect is within the limits.
    """
    area = width * height * rng.uniform(*SHARE, TRIES)
    aspect = np.exp(rng.uniform(-math.log(ASPECT), math.log(ASPECT), TRIES))
    widths, heights = np.rint(np.sqrt(area * aspect)).astype(int), np.rint(np.sqrt(area / aspect)).astype(int)
    fitting = np.flatnonzero((widths <= width) & (heights <= height))
    if fitting.size:
        w, h = int(widths[fitting[0]]), int(heights[fitting[0]])
        left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    else:
        w, h = min(width, round(height * ASPECT)), min(height, round(width * ASPECT))
        left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def jittered(image: Image, rng: np.random.Generator) -> Image:
    """An RGB image with other brightness, contrast, saturation and hue, changed in random order."""
    from PIL import ImageEnhance

    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(1 - STRENGTH, 1 + STRENGTH, len(enhancers)).tolist()
    turn = rng.uniform(-HUE, HUE)
    for step in rng.permutation(len(enhancers) + 1).tolist():
        image = turned(image, turn) if step == len(enhancers) else enhancers[step](image).enhance(factors[step])
    return image


def turned(image: Image, turn: float) -> Image:
    """An RGB image with its hues turned round the colour circle by this part of it."""
    from PIL import Image as Images

    hue, saturation, value = image.convert("HSV").split()
    shift = round(turn * 255)
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Images.merge("HSV", (hue, saturation, value)).convert("RGB")


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """(h, w, 3) uint8 under a 3 x 3 Gaussian of this width in pixels; the image goes on mirrored behind its border."""
    weight = math.exp(-0.5 / sigma**2)
    side, centre = np.float32(weight / (1 + 2 * weight)), np.float32(1 / (1 + 2 * weight))
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), "reflect").astype(np.float32)
    down = centre * padded[1:-1] + side * (padded[:-2] + padded[2:])
    both = centre * down[:, 1:-1] + side * (down[:, :-2] + down[:, 2:])
    return np.rint(both).astype(np.uint8)
