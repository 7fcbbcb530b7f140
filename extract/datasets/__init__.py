"""Image sets, one a file. A new one is a file with `ABOUT` and `load(root, split, seed)`, and a line in `DATASETS`.

The loaders of sets of list files take `Prefixes` as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.errors import UsageError, unknown_name_error
from sdc.extract.datasets.about import AS_LISTED, About, Prefixes, find_root
from sdc.extract.store.store import Listing

if TYPE_CHECKING:
    from PIL.Image import Image

DATASETS = {
    "cifar10": "sdc.extract.datasets.cifar10",
    "coco": "sdc.extract.datasets.coco",
    "fashion-mnist": "sdc.extract.datasets.fashion_mnist",
    "folder": "sdc.extract.datasets.folder",
    "gldv2": "sdc.extract.datasets.gldv2",
    "imagenet100": "sdc.extract.datasets.imagenet100",
    "list": "sdc.extract.datasets.list_files",
    "nuswide": "sdc.extract.datasets.nuswide",
    "roxf": "sdc.extract.datasets.roxf",
    "rparis": "sdc.extract.datasets.rparis",
    "webdataset": "sdc.extract.datasets.webdataset",
}


@dataclass(frozen=True)
class Dataset:
    """A set of images.

    Attributes:
        name: its name on the command line.
        listing: ids, labels and splits of its N images.
        open: the image of a row of the listing, 0 to N - 1; called from several threads. Raises whatever PIL
            raises where the image cannot be read.
        content: a hash of what the images are (not where they lie): with another one, features are others.
        resize: how an image becomes the backbone's input, see `sdc.extract.images.Preprocessing`.
        protocol: how the set is evaluated.
    """

    name: str
    listing: Listing
    open: Callable[[int], Image]
    content: str
    resize: str = "crop"
    protocol: Mapping[str, Any] = field(default_factory=lambda: {"name": "category", "at": 1000})

    def __len__(self) -> int:
        return len(self.listing.ids)

    def select(self, rows: np.ndarray) -> Dataset:
        """The set of these rows (ascending) alone."""
        numbers = rows.tolist()
        return replace(self, listing=self.listing.select(rows), open=lambda row: self.open(numbers[row]))


def load(
    name: str,
    root: Path | None = None,
    split: str | None = None,
    seed: int = 0,
    prefixes: Prefixes = AS_LISTED,
) -> Dataset:
    """Lists a set.

    Args:
        name: one of `DATASETS`.
        root: the folder it lies in; by default what `sdc.extract.datasets.about.find_root` finds.
        split: a ratio or a file, for sets that take one.
        seed: for random splits.
        prefixes: what changes in the paths of list files.

    Raises:
        UsageError: an unknown name, no `root`, an option that the set does not take.
        SdcError: the set's files are missing or damaged.
    """
    about = about_of(name)
    for option, value in (("split", split), ("strip-prefix", prefixes.strip), ("add-prefix", prefixes.add)):
        if value is not None and option not in about.options:
            takers = [other for other in DATASETS if option in about_of(other).options]
            has = "has a split of its own" if option == "split" else "has no list files"
            raise UsageError(f"{name} {has}: leave out --{option} (it is for --data {', '.join(takers)})")
    module = importlib.import_module(DATASETS[name])
    further = (prefixes,) if "strip-prefix" in about.options else ()
    dataset: Dataset = module.load(find_root(name, about, root), split, seed, *further)
    return dataset


def about_of(name: str) -> About:
    """What there is to know of a set. Raises UsageError for an unknown name."""
    if name not in DATASETS:
        raise unknown_name_error("data set", name, DATASETS)
    about: About = importlib.import_module(DATASETS[name]).ABOUT
    return about


def catalogue() -> dict[str, Any]:
    """All sets, as JSON: what `sdc datasets` prints."""
    return {"datasets": [{"name": name, **about_of(name).record()} for name in DATASETS]}
