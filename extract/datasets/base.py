"""A set of images: what its module says about it, where its files are looked for, and what its loader returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.extract.store import Listing

if TYPE_CHECKING:
    from PIL.Image import Image

VARIABLE = "SDC_DATA"
CATEGORY = {"name": "category", "at": 1000}


@dataclass(frozen=True)
class About:
    """What is known of a set before it is loaded: what `sdc datasets` prints, and how it is extracted and evaluated.

    Attributes:
        summary: the set in a few words.
        needs: what must lie below its root, each with where that comes from.
        splits: which images are train, query and database.
        labels: what is known of an image.
        protocol: how it is evaluated; `at` is the R of mAP@R, None for all.
        resize: how an image becomes the backbone's input, see `sdc.extract.images.Preprocessing`.
        options: fields of `LoadOptions` that it uses, by their names on the command line, such as "split".
        own_folder: its files lie in a folder of a name of its own, so that the root may hold other sets as well.
        finds_itself: it knows where to look where no root is named.
    """

    summary: str
    needs: Mapping[str, str]
    splits: str
    labels: str
    protocol: Mapping[str, Any] = field(default_factory=lambda: dict(CATEGORY))
    resize: str = "crop"
    options: tuple[str, ...] = ()
    own_folder: bool = False
    finds_itself: bool = False

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "summary": self.summary,
            "needs": [{"path": path, "from": source} for path, source in self.needs.items()],
            "splits": self.splits,
            "labels": self.labels,
            "protocol": dict(self.protocol),
            "resize": self.resize,
            "options": list(self.options),
        }


@dataclass(frozen=True)
class Prefixes:
    """What changes in the paths of lists that were written for another machine.

    Attributes:
        strip: leading folders that come off the paths that begin with them. What is left is the image's id.
        add: a folder that then goes in front, to find the file.
    """

    strip: str | None = None
    add: str | None = None

    def name(self, path: str) -> str:
        """The id of an image, by its path as it stands in a list."""
        plain = PurePosixPath(path)
        if self.strip is not None and plain.is_relative_to(self.strip):
            plain = plain.relative_to(self.strip)
        return str(plain)

    def path(self, name: str) -> Path:
        """Where the image of this id lies: absolute, or relative to the set's root."""
        return Path(name if self.add is None else f"{self.add.rstrip('/')}/{name.lstrip('/')}")


AS_LISTED = Prefixes()


@dataclass(frozen=True)
class LoadOptions:
    """What a user may choose about a set; a loader uses those that its `About.options` name, and the seed.

    Attributes:
        split: a ratio or a file.
        seed: for random splits.
        prefixes: what changes in the paths of list files.
        exclude: patterns of files and folders to leave out.
    """

    split: str | None = None
    seed: int = 0
    prefixes: Prefixes = AS_LISTED
    exclude: Sequence[str] = ()


@dataclass(frozen=True)
class Images:
    """What a set's loader returns.

    Attributes:
        listing: ids, labels and splits of the N images.
        open: the image of a row of the listing, 0 to N - 1; called from several threads. Raises whatever PIL
            raises where the image cannot be read.
        content: a hash of what the images are (not where they lie): with another one, features are others.
    """

    listing: Listing
    open: Callable[[int], Image]
    content: str


@dataclass(frozen=True)
class Dataset:
    """A set of images, ready to be extracted.

    Attributes:
        name: its name on the command line.
        listing, open, content: as of `Images`.
        resize, protocol: as of `About`.
    """

    name: str
    listing: Listing
    open: Callable[[int], Image]
    content: str
    resize: str = "crop"
    protocol: Mapping[str, Any] = field(default_factory=lambda: dict(CATEGORY))

    def __len__(self) -> int:
        return len(self.listing.ids)

    def select(self, rows: np.ndarray) -> Dataset:
        """The set of these rows (ascending) alone."""
        numbers = rows.tolist()
        return replace(self, listing=self.listing.select(rows), open=lambda row: self.open(numbers[row]))


def find_root(name: str, about: About, root: Path | None) -> Path | None:
    """The folder that holds a set.

    That is `root`; else the folder of the set's name in the folder that the environment variable SDC_DATA names; else
    that folder itself, for sets whose files lie in a folder of a name of its own.

    Returns:
        None where none of them is there, for a set that finds its files by itself.

    Raises:
        UsageError: nothing names a folder.
        SdcError: the folder named is none.
    """
    shared = os.environ.get(VARIABLE)
    if root is None and shared:
        if (Path(shared) / name).is_dir():
            root = Path(shared) / name
        elif about.own_folder:
            root = Path(shared)
    if root is None:
        if about.finds_itself:
            return None
        set_to = f" (found {VARIABLE}={shared}, without one)" if shared else ""
        raise UsageError(
            f"--data {name} needs --root, or {VARIABLE} with a folder {name} in it{set_to}: the folder that holds "
            f"{', '.join(list(about.needs)[:4])}; see `sdc datasets`"
        )
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise SdcError(
            f"{root} {state}, expected a folder of images: correct --root{f' or {VARIABLE}' if shared else ''}"
        )
    return root


def require_set_file(root: Path, name: str, source: str) -> Path:
    """The file `name` below `root`.

    Args:
        source: where one gets it.

    Raises:
        SdcError: it is not there; says where it comes from, and whether it lies a level up or down.
    """
    path = root / name
    if path.is_file():
        return path
    below = sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
    for folder in (root.resolve().parent, *map(Path, below)):
        if (folder / name).is_file():
            raise SdcError(f"no {path}, but there is one in {folder}: name that folder with --root")
    raise SdcError(f"no {path}: it comes from {source}; get it, or correct --root")
