"""Image sets, one a file. A new one is a file with a `load(root, split, seed)` and a line in `DATASETS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.artifacts import unknown
from sdc.extract.store import Listing

if TYPE_CHECKING:
    from PIL.Image import Image

DATASETS = {
    "fashion-mnist": "sdc.extract.datasets.fashion_mnist",
    "folder": "sdc.extract.datasets.folder",
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
        resize: how an image becomes a square, see `sdc.extract.images.Preprocessing`.
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


def load(name: str, root: Path | None = None, split: str | None = None, seed: int = 0) -> Dataset:
    """Lists a set.

    Args:
        name: one of `DATASETS`.
        root: the folder it lies in; some sets find theirs by themselves.
        split: a ratio or a file, for sets without splits of their own.
        seed: for random splits.

    Raises:
        UsageError: an unknown name, a missing or pointless `root` or `split`.
        SdcError: the set's files are missing or damaged.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    dataset: Dataset = importlib.import_module(DATASETS[name]).load(root, split, seed)
    return dataset
