"""How close `sdc extract` comes to the bare backbone: images/s of both, in one process, by turns.

    python bench/extract_bench.py [--case NAME] [--repeats 5] [--images N] [--json FILE]

Bare is the forward pass on normalised batches that are in memory already. Extract is everything from the image
files to a whole feats.h5. Their features are compared first. Exit status 1: a ratio is below 0.9.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdc.extract import Encoder, ExtractSettings, Preprocessing, backbones, batches, datasets, make_parts, stratified
from sdc.extract.datasets import Dataset
from sdc.extract.parts import Parts
from sdc.extract.store import FeatureStore

BAR = 0.9


@dataclass(frozen=True)
class Case:
    """A backbone on `images` images of a set."""

    backbone: str
    weights: str | None
    image_size: int
    images: int
    dataset: Callable[[Path], Dataset]


def fashion_mnist(folder: Path) -> Dataset:
    return datasets.load_dataset("fashion-mnist")


def photographs(folder: Path) -> Dataset:
    """256 JPEG files of 500 x 375 pixels, as in ImageNet, cut from scikit-learn's two sample photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images  # 427 x 640 each
    random = np.random.default_rng(0)
    for number in range(256):
        y, x = random.integers(0, 427 - 375), random.integers(0, 640 - 500)
        cut = np.ascontiguousarray(pictures[number % 2][y : y + 375, x : x + 500])
        Image.fromarray(cut).save(folder / f"{number:04d}.jpg", quality=90)
    return datasets.load_dataset("folder", folder)


CASES = {
    "efficientnet_lite0-96": Case("efficientnet_lite0", None, 96, 1024, fashion_mnist),
    "resnet50-224": Case("resnet50", "random:0", 224, 192, photographs),
}


class Contest:
    """Both sides of one case, on the same images and the same module."""

    def __init__(self, case: Case, images: int, folder: Path) -> None:
        whole = case.dataset(folder)
        self.dataset = whole.select(stratified(whole.listing, images, 0))
        backbone = backbones.load_backbone(case.backbone, case.weights, case.image_size)
        self.preprocessing = Preprocessing(backbone.image_size, whole.resize, backbone.mean, backbone.std)
        self.encoder = Encoder(backbone)
        self.settings = ExtractSettings(out=folder / "feats.h5", overwrite=True)
        self.inputs = [self.encoder.normalised(batch.pixels) for batch in self._batches()]

    def _batches(self) -> list[Any]:
        """The batches that extract makes: none crosses a part."""
        rows, part, size = len(self.dataset), self.settings.part_rows, self.settings.batch_size
        groups = [
            range(start, min(start + size, first + part, rows))
            for first in range(0, rows, part)
            for start in range(first, min(first + part, rows), size)
        ]
        return list(batches(self.dataset.open, groups, self.preprocessing))

    def bare(self) -> np.ndarray:
        with torch.inference_mode(), self.encoder.precision():
            rows = [self.encoder.module(batch) for batch in self.inputs]
        return torch.cat(rows).half().cpu().numpy()

    def extract(self) -> Path:
        parts = Parts(self.settings.out, self.dataset.listing, {}, self.settings.part_rows, overwrite=True)
        make_parts(parts, self.dataset, self.preprocessing, self.encoder, self.settings)
        return parts.assemble()


def measure(case: Case, repeats: int, images: int) -> dict[str, Any]:
    """Images/s of both sides, after their features were found equal; the ratio is that of the medians."""
    with tempfile.TemporaryDirectory() as name:
        contest = Contest(case, images, Path(name))
        np.testing.assert_array_equal(FeatureStore(contest.extract()).features, contest.bare())
        seconds: dict[str, list[float]] = {"bare": [], "extract": []}
        for _ in range(repeats):
            for side, function in (("bare", contest.bare), ("extract", contest.extract)):
                start = time.perf_counter()
                function()
                seconds[side].append(time.perf_counter() - start)
    ratios = [bare / extract for bare, extract in zip(seconds["bare"], seconds["extract"], strict=True)]
    return {
        "images": images,
        "batch_size": contest.settings.batch_size,
        **{side: summary([images / second for second in times]) for side, times in seconds.items()},
        "ratio": summary(ratios),
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(), "processor": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=CASES, action="append", help="one of these only")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, help="fewer or more images than the case has")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.case or CASES:
        case = CASES[name]
        results[name] = figures = measure(case, arguments.repeats, arguments.images or case.images)
        bare, extract, ratio = figures["bare"], figures["extract"], figures["ratio"]
        print(
            f"{name}: bare {bare['median']:.1f} images/s ({bare['least']:.1f} to {bare['most']:.1f}), "
            f"extract {extract['median']:.1f} ({extract['least']:.1f} to {extract['most']:.1f}), "
            f"ratio {ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f})",
            flush=True,
        )
    print(json.dumps(machine()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    return 0 if all(figures["ratio"]["median"] >= BAR for figures in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
