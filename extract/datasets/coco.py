"""MS-COCO 2014 (Lin et al. 2014): photographs, each with some of 80 kinds of objects."""

from __future__ import annotations

from pathlib import Path

from sdc.extract.datasets.base import About, Images, LoadOptions
from sdc.extract.datasets.lists import FILES, OPTIONS, load_lists

ABOUT = About(
    "MS-COCO 2014, photographs with 80 kinds of objects",
    needs={
        **dict.fromkeys(FILES.values(), "the authors' data/coco, or HashNet's lists (github.com/thuml/HashNet)"),
        "train2014/": "train2014.zip from cocodataset.org",
        "val2014/": "val2014.zip from cocodataset.org",
    },
    splits="as listed: 10,000 train, 5,000 query, about 117,200 database",
    labels="several of 80 kinds of objects; relevant is what shares one",
    protocol={"name": "category", "at": 5000},
    options=OPTIONS,
)


def load(root: Path, options: LoadOptions) -> Images:
    """The images of the three lists. Raises what `load_lists` raises."""
    return load_lists("coco", ABOUT, root, options, strip="data/coco", columns=80)
