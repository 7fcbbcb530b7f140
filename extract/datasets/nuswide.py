"""NUS-WIDE (Chua et al. 2009): photographs from Flickr, each with some of the 21 most frequent concepts."""

from __future__ import annotations

from pathlib import Path

from sdc.extract.datasets.base import About, Images, LoadOptions
from sdc.extract.datasets.lists import FILES, OPTIONS, load_lists

ABOUT = About(
    "NUS-WIDE, photographs with the 21 most frequent concepts",
    needs={
        **dict.fromkeys(
            FILES.values(), "the authors' data/nuswide, or HashNet's nus_wide lists (github.com/thuml/HashNet)"
        ),
        "images/": "NUS-WIDE's authors at the National University of Singapore, on request",
    },
    splits="as listed: 10,500 train, 2,100 query, 193,734 database",
    labels="several of 21 concepts; relevant is what shares one",
    protocol={"name": "category", "at": 5000},
    options=OPTIONS,
)


def load(root: Path, options: LoadOptions) -> Images:
    """The images of the three lists. Raises what `load_lists` raises."""
    return load_lists("nuswide", ABOUT, root, options, strip="data/nuswide", columns=21)
