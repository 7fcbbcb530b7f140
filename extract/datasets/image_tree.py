"""The images below a folder, and what else lies there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from sdc.errors import SdcError, log
from sdc.extract.image_files import HEIF, NO_HEIF, UNREADABLE, is_image_file, reads_heif

# What file managers, cameras' programs and disk stations put beside images: previews, and what was deleted.
PREVIEWS = (
    "@eaDir", "@Recycle", "#recycle", "#snapshot", "@Recently-Snapshot", "$RECYCLE.BIN", "System Volume Information",
    "__MACOSX", "lost+found", "iPod Photo Cache", "*.lrdata", "*.photoslibrary/resources", "SYNOPHOTO_*",
)  # fmt: skip
NOT_UTF8 = "its name is not UTF-8: rename it"
_KINDS = 5  # endings in a message


@dataclass
class ImageTree:
    """What lies below a folder.

    Attributes:
        sizes: of each image its bytes, by its POSIX path below the folder. A link to nowhere has 0: it is listed, to
            be reported as an image that cannot be read.
        unnamed: those among them whose names are not UTF-8; they stand there in escaped form.
        others: how many files are no images, by their endings.
        previews: names of folders and files that were passed over.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    unnamed: set[str] = field(default_factory=set)
    others: Counter[str] = field(default_factory=Counter)
    previews: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, size: int) -> None:
        """Takes in an image."""
        shown = readable_name(name)
        if shown != name:
            while shown in self.sizes:
                shown += "_"
            self.unnamed.add(shown)
        self.sizes[shown] = size

    def describe_others(self) -> str:
        """The files that are no images, as a text: `3 .txt, 1 without an ending`; empty where there are none."""
        ordered = sorted(self.others.items(), key=lambda kind: (-kind[1], kind[0]))
        kinds = [f"{count} {ending or 'without an ending'}" for ending, count in ordered]
        return ", ".join(kinds[:_KINDS]) + (f" and {len(kinds) - _KINDS} more kinds" if len(kinds) > _KINDS else "")

    def report(self, root: Path) -> None:
        """Says what is passed over, and warns of images that will be left out."""
        endings = Counter(PurePosixPath(name).suffix.lower() for name in self.sizes)
        if self.previews:
            log.info("%s: passed over: %s", root, ", ".join(f"{count} {name}" for name, count in self.previews.items()))
        if self.others:
            log.info("%s: no images, and left out: %s", root, self.describe_others())
        for ending in HEIF:
            if endings[ending] and not reads_heif():
                log.warning("%s: %d %s will be left out: %s", root, endings[ending], ending, NO_HEIF)
        for ending in UNREADABLE:
            if endings[ending]:
                log.warning("%s: %d %s will be left out: save them as PNG or JPEG", root, endings[ending], ending)


def readable_name(name: str) -> str:
    """A name with the bytes in it that are no UTF-8 spelled out, such as caf\\xe9.png."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def find_images(root: Path, exclude: Sequence[str] = ()) -> ImageTree:
    """The images at any depth below `root`. Hidden files and folders, and `PREVIEWS`, are passed over.

    Args:
        exclude: patterns of what to leave out, see `is_excluded`.

    Raises:
        SdcError: a folder that may not be read, whose images would be missing.
    """
    tree, visited = ImageTree(), set()

    def passed_over(folder: str, name: str) -> bool:
        below = PurePosixPath(Path(folder, name).relative_to(root).as_posix())
        if name.startswith(".") or is_excluded(below, exclude):
            return True
        if is_excluded(below, PREVIEWS):
            tree.previews[name if not name.startswith("SYNOPHOTO_") else "SYNOPHOTO_*"] += 1
            return True
        return False

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in visited:  # a link that leads back
            subfolders.clear()
            continue
        visited.add((place.st_dev, place.st_ino))
        # The order decides which of two ways to the same folder is taken.
        subfolders[:] = sorted(name for name in subfolders if not passed_over(folder, name))
        for name in files:
            if passed_over(folder, name):
                continue
            path = Path(folder, name)
            there = path.exists()
            if there and not path.is_file():
                continue  # a pipe or the like
            if is_image_file(path):
                tree.add(path.relative_to(root).as_posix(), path.stat().st_size if there else 0)
            else:
                tree.others[path.suffix.lower()] += 1
    return tree


def is_excluded(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Whether a path below the root fits one of the patterns, in which * and ? stand for any characters and one.

    A pattern with a / in it is compared with the whole path, any other with the last name alone.
    """
    plain = [pattern.rstrip("/") for pattern in patterns]
    return any(fnmatchcase(str(path) if "/" in pattern else path.name, pattern) for pattern in plain)


def _refuse(error: OSError) -> None:
    raise SdcError(f"cannot read the folder {error.filename} ({error.strerror}): get permission, or move it elsewhere")
