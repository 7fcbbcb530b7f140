"""ImageNet100: 100 of ImageNet's classes, with the lists of the hashing literature (Cao et al. 2017, HashNet)."""

from __future__ import annotations

from pathlib import Path

from sdc.extract.datasets.base import About, Images, LoadOptions
from sdc.extract.datasets.lists import FILES, OPTIONS, load_lists

ABOUT = About(
    "100 classes of ImageNet (ILSVRC 2012)",
    needs={
        **dict.fromkeys(FILES.values(), "the authors' data/imagenet, or HashNet's lists (github.com/thuml/HashNet)"),
        "image/ (and what else the lists name)": "ILSVRC 2012 (image-net.org), these images in one folder",
    },
    splits="as listed: 13,000 train, 5,000 query, about 128,500 database",
    labels="1 of 100 classes",
    options=OPTIONS,
)


def load(root: Path, options: LoadOptions) -> Images:
    """The images of the three lists. Raises what `load_lists` raises."""
    return load_lists("imagenet100", ABOUT, root, options, strip="data/imagenet", columns=1)
