"""Any set that comes as three list files."""

from __future__ import annotations

from pathlib import Path

from sdc.extract.datasets.base import About, Images, LoadOptions
from sdc.extract.datasets.lists import FILES, OPTIONS, load_lists

ABOUT = About(
    "any images named by three list files",
    needs=dict.fromkeys(FILES.values(), "you, with lines `path labels`; the queries' may be called query.txt"),
    splits="as listed",
    labels="the number of a class, or a zero or one for each class; relevant is what shares one",
    options=OPTIONS,
)


def load(root: Path, options: LoadOptions) -> Images:
    """The images of the three lists. Raises what `load_lists` raises."""
    return load_lists("list", ABOUT, root, options)
