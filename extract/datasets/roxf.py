"""ROxford5k: 4993 photographs of Oxford and 70 queries, see `sdc.extract.datasets.revisited`."""

from __future__ import annotations

from pathlib import Path

from sdc.extract.datasets.base import Images, LoadOptions
from sdc.extract.datasets.revisited import about_revisited, load_revisited

FOLDER = "roxford5k"
SOURCE = "oxbuild_images.tgz of www.robots.ox.ac.uk/~vgg/data/oxbuildings, unpacked into jpg"
ABOUT = about_revisited("Oxford", FOLDER, "all_souls_000000.jpg, ...", SOURCE, 4993)


def load(root: Path, options: LoadOptions) -> Images:
    """The images of the set, see `load_revisited`; no options."""
    return load_revisited(FOLDER, SOURCE, root)
