"""ROxford5k: 4993 photographs of Oxford and 70 queries, see `sdc.extract.datasets.revisited`."""

from __future__ import annotations

from pathlib import Path

from sdc.extract.datasets import Dataset, revisited

FOLDER = "roxford5k"
SOURCE = "oxbuild_images.tgz of www.robots.ox.ac.uk/~vgg/data/oxbuildings, unpacked into jpg"
ABOUT = revisited.about("Oxford", FOLDER, "all_souls_000000.jpg, ...", SOURCE, 4993)


def load(root: Path, split: str | None, seed: int) -> Dataset:
    """Raises what `revisited.load` raises; it has no use for `split` and `seed`."""
    return revisited.load("roxf", FOLDER, SOURCE, root)
