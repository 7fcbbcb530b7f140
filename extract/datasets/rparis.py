"""RParis6k: 6322 photographs of Paris and 70 queries, see `sdc.extract.datasets.revisited`."""

from __future__ import annotations

from pathlib import Path

from sdc.extract.datasets import Dataset, revisited

FOLDER = "rparis6k"
SOURCE = "paris_1.tgz and paris_2.tgz of www.robots.ox.ac.uk/~vgg/data/parisbuildings, all images in one folder jpg"
ABOUT = revisited.about("Paris", FOLDER, "paris_defense_000000.jpg, ...", SOURCE, 6322)


def load(root: Path, split: str | None, seed: int) -> Dataset:
    """Raises what `revisited.load` raises; it has no use for `split` and `seed`."""
    return revisited.load("rparis", FOLDER, SOURCE, root)
