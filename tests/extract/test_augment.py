"""Augmented views: the same for the same image, seed and number; each step as torchvision does it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop, functional

from sdc.extract.augment import ASPECT, Augmentation, augmented, blurred, crop_box, jittered, turned
from sdc.extract.image_loader import batches
from sdc.extract.images import Preprocessing

COLOURS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
NAMES = [f"{row}.png" for row in range(50)]


def test_a_view_depends_on_seed_id_and_number_alone() -> None:
    image = Image.fromarray(COLOURS)
    made = Augmentation(2, 24, 0, NAMES)(image, 7)
    assert (made.shape, made.dtype) == ((2, 24, 24, 3), np.uint8)
    np.testing.assert_array_equal(Augmentation(2, 24, 0, NAMES)(image, 7), made)
    np.testing.assert_array_equal(Augmentation(1, 24, 0, NAMES)(image, 7), made[:1])
    np.testing.assert_array_equal(Augmentation(2, 24, 0, NAMES[7:8])(image, 0), made)  # in a sample
    others = [Augmentation(2, 24, 1, NAMES)(image, 7), Augmentation(2, 24, 0, NAMES)(image, 8), made[::-1]]
    for other in others:
        assert (other[0] != made[0]).mean() > 0.5


@pytest.mark.parametrize("size", [1, 7])
def test_batches_and_threads_do_not_change_a_view(size: int) -> None:
    preprocessing = Preprocessing(16, "crop", (0.5,) * 3, (0.5,) * 3)
    augmentation = Augmentation(2, 16, 3, NAMES)

    def opened(row: int) -> Image.Image:
        if row == 20:
            raise OSError("damaged")
        pixels = np.random.default_rng(row).integers(0, 256, (20 + row, 30, 3), np.uint8)
        return Image.fromarray(pixels if row % 2 else pixels[..., 0].copy())

    groups = [range(start, min(start + size, 50)) for start in range(0, 50, size)]
    found = list(batches(opened, groups, preprocessing, 3, augmentation))
    rows = [row for row in range(50) if row != 20]
    assert np.concatenate([batch.rows for batch in found]).tolist() == rows
    views = np.concatenate([batch.views for batch in found], axis=1)
    assert views.shape == (2, 49, 16, 16, 3)
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(views[:, place], augmentation(opened(row), row))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32))
def test_a_crop_lies_within_the_image(width: int, height: int, seed: int) -> None:
    left, upper, right, lower = crop_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    w, h = right - left, lower - upper
    assert w - 0.5 <= ASPECT * (h + 0.5)
    assert h - 0.5 <= ASPECT * (w + 0.5)
    if max(width, height) <= 1.2 * min(width, height):  # nearly square: half of it fits at any aspect
        assert (w + 0.5) * (h + 0.5) >= 0.5 * width * height


def test_panoramas_are_cropped_in_the_middle() -> None:
    assert crop_box(1000, 60, np.random.default_rng(0)) == (460, 0, 540, 60)
    assert crop_box(60, 1000, np.random.default_rng(0)) == (0, 460, 60, 540)


def test_crops_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    image, random = torch.empty(3, 80, 100), np.random.default_rng(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.5, 1.0], [1 / ASPECT, ASPECT]) for _ in range(4000)]
    )  # upper, left, height, width
    ours = np.array([crop_box(100, 80, random) for _ in range(4000)])  # left, upper, right, lower
    ours = np.stack([ours[:, 1], ours[:, 0], ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], 1)
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.08)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_the_blur_is_torchvisions(sigma: float) -> None:
    expected = functional.gaussian_blur(torch.from_numpy(COLOURS).permute(2, 0, 1), [3, 3], [sigma, sigma])
    difference = blurred(COLOURS, sigma).astype(int) - expected.permute(1, 2, 0).numpy()
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.01


@pytest.mark.parametrize("turn", [-0.1, -0.03, 0.0, 0.07])
def test_hues_turn_as_torchvisions(turn: float) -> None:
    image = Image.fromarray(COLOURS)
    expected = np.asarray(functional.adjust_hue(image, turn), int)
    # They cut the shift off, which is rounded here: a step of 1/255 of a turn moves a channel by 6 at most.
    assert np.abs(np.asarray(turned(image, turn), int) - expected).max() <= 6


def test_jitter_stays_within_its_strength() -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))  # whose contrast, saturation and hue cannot change
    levels = np.array([np.asarray(jittered(grey, np.random.default_rng(seed)))[0, 0] for seed in range(500)])
    assert (levels == levels[:, :1]).all()
    assert 60 <= levels.min() < 64
    assert 136 < levels.max() <= 140
    assert abs(levels.mean() - 100) < 4 * 80 / math.sqrt(12 * 500)


def test_each_step_is_as_frequent_as_it_should_be() -> None:
    count = 3000
    plain = Image.new("RGB", (12, 12), (200, 100, 50))
    halves = Image.new("RGB", (12, 12), (200, 100, 50))
    halves.paste((60, 0, 0), (6, 0, 12, 12))
    views = np.stack([augmented(plain, 6, np.random.default_rng(seed)) for seed in range(count)]).astype(int)
    split = np.stack([augmented(halves, 6, np.random.default_rng(seed)) for seed in range(count)]).astype(int)
    grey = (views == views[..., :1]).all((1, 2, 3))
    untouched = (views == (200, 100, 50)).all((1, 2, 3))
    flipped = split[:, :, 0].sum((1, 2)) < split[:, :, -1].sum((1, 2))
    for found, expected in ((grey, 0.2), (untouched, 0.3 * 0.8), (flipped, 0.5)):
        assert abs(found.mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    assert (views[~untouched & ~grey].std(0) > 10).all()


def test_grey_images_stay_grey() -> None:
    view = augmented(Image.fromarray(COLOURS[..., 0].copy()), 20, np.random.default_rng(1))
    assert view.shape == (20, 20, 3)
    assert (view == view[..., :1]).all()
    assert view.std() > 10
