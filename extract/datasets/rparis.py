"""RParis6k: 6322 photographs of Paris and 70 queries, see `sdc.extract.datasets.revisited`."""

from __future__ import annotations

from pathlib import Path

from sdc.extract.datasets.base import Images, LoadOptions
from sdc.extract.datasets.revisited import about_revisited, load_revisited

FOLDER = "rparis6k"
SOURCE = "paris_1.tgz and paris_2.tgz of www.robots.ox.ac.uk/~vgg/data/parisbuildings, all images in one folder jpg"
ABOUT = about_revisited("Paris", FOLDER, "paris_defense_000000.jpg, ...", SOURCE, 6322)


def load(root: Path, options: LoadOptions) -> Images:
    """The images of the set, see `load_revisited`; no options."""
    return load_revisited(FOLDER, SOURCE, root)
