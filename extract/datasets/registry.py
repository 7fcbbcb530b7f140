"""The image sets by name. A new one is a module with `ABOUT` and `load(root, options)`, and a line in `DATASETS`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdc.errors import UsageError, unknown_name_error
from sdc.extract.datasets.base import AS_LISTED, About, Dataset, Images, LoadOptions, Prefixes, find_root

DATASETS: dict[str, str] = {
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


def load_dataset(
    name: str,
    root: Path | None = None,
    split: str | None = None,
    seed: int = 0,
    prefixes: Prefixes = AS_LISTED,
    exclude: Sequence[str] = (),
) -> Dataset:
    """Lists a set.

    Args:
        name: one of `DATASETS`.
        root: the folder it lies in; by default the one that `find_root` finds.
        split, seed, prefixes, exclude: see `LoadOptions`.

    Raises:
        UsageError: an unknown name, no `root`, an option that the set does not take.
        SdcError: the set's files are missing or damaged.
    """
    about = about_dataset(name)
    given = {
        "split": split, "strip-prefix": prefixes.strip, "add-prefix": prefixes.add, "exclude": exclude or None,
    }  # fmt: skip
    for option, value in given.items():
        if value is not None and option not in about.options:
            takers = [other for other in DATASETS if option in about_dataset(other).options]
            reasons = {"split": "has a split of its own", "exclude": "lists its images itself"}
            has = reasons.get(option, "has no list files")
            raise UsageError(f"{name} {has}: leave out --{option} (it is for --data {', '.join(takers)})")
    options = LoadOptions(split, seed, prefixes, exclude)
    images: Images = importlib.import_module(DATASETS[name]).load(find_root(name, about, root), options)
    return Dataset(name, images.listing, images.open, images.content, about.resize, about.protocol)


def about_dataset(name: str) -> About:
    """What is known of a set before it is loaded. Raises UsageError for an unknown name."""
    if name not in DATASETS:
        raise unknown_name_error("data set", name, DATASETS)
    about: About = importlib.import_module(DATASETS[name]).ABOUT
    return about


def catalogue() -> dict[str, Any]:
    """All sets, as JSON: what `sdc datasets` prints."""
    return {"datasets": [{"name": name, **about_dataset(name).record()} for name in DATASETS]}
