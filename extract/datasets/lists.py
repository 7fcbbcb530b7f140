"""Sets that come as list files: train.txt, test.txt (the queries) and database.txt, with lines `path labels`.

A path is what stands before the whole numbers at the end of its line. It may hold spaces if it ends as images do
(`my photo 2.jpg 5`); it is absolute, or relative to the set's root. One label is the number of a class, several are a
zero or one for each class. An image may stand in several lists, with the same labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.datasets.base import AS_LISTED, About, Images, LoadOptions, Prefixes, require_set_file
from sdc.extract.image_files import SUFFIXES, open_file
from sdc.extract.store import Listing
from sdc.files import fingerprint
from sdc.text import text_lines

if TYPE_CHECKING:
    from PIL.Image import Image

FILES = {"train": "train.txt", "query": "test.txt", "database": "database.txt"}
OPTIONS = ("strip-prefix", "add-prefix")  # of `sdc extract`, for all of these sets
FURTHER_QUERIES = "query.txt"  # what some call test.txt
MISSING = -1  # the size of a file that is not there
LARGEST = np.iinfo(np.int32).max


class Line(NamedTuple):
    """A line of a list: its path as it stands there, and its labels with a space between each two."""

    file: Path
    number: int
    path: str
    labels: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.number}"


def load_lists(
    name: str,
    about: About,
    root: Path,
    options: LoadOptions,
    *,
    strip: str | None = None,
    columns: int | None = None,
) -> Images:
    """The set that the three lists in `root` name; its rows are in the order in which images are first named.

    Args:
        strip: what comes off the paths unless `options.prefixes` says otherwise: folders above the root that the usual
            lists name.
        columns: labels that a line usually has; other numbers are taken too, with a warning. Where it is 1, a single
            one among zeros is the number of a class as well.

    Raises:
        UsageError: no path begins with `options.prefixes.strip`.
        SdcError: a list is missing, empty or no text; a line has no labels, or others than lines before it; no
            image is there at all.
    """
    own = options.prefixes
    prefixes = Prefixes(strip if own.strip is None else own.strip, own.add)
    images, splits = _collect(_lists(root, about), prefixes)
    if own.strip is not None and all(AS_LISTED.name(line.path) == image for image, line in images.items()):
        path = next(iter(images.values())).path
        raise UsageError(f"--strip-prefix {own.strip}: no path in the lists of {root} begins so, e.g. {path}")
    labels = _labels(images)
    width = 1 if labels.ndim == 1 else labels.shape[1]
    if columns == 1 < width and (labels.sum(axis=1) == 1).all():
        labels = labels.argmax(axis=1)
    elif columns not in (None, width):
        log.warning("%s usually has %d labels an image, these lists have %d", name, columns, width)
    ids = list(images)

    def path_of(row: int) -> Path:
        return root / prefixes.path(ids[row])  # made anew each time: millions of paths take half a gigabyte

    sizes = _sizes(map(path_of, range(len(ids))))
    _report_missing(root, images, path_of, sizes)
    del images

    def picture(row: int) -> Image:
        return open_file(path_of(row))

    return Images(
        Listing(ids, splits, labels),
        picture,
        content=fingerprint(dict(zip(ids, sizes, strict=True))),  # sizes stand for contents, as for folders
    )


def _lists(root: Path, about: About) -> dict[str, Path]:
    """The three lists, by split."""
    lists = {}
    for split, file in FILES.items():
        other = root / FURTHER_QUERIES
        if split == "query" and other.is_file():
            if (root / file).is_file():
                raise SdcError(
                    f"{root} has both {file} and {other.name}, expected one list of queries: remove the other"
                )
            lists[split] = other
        else:
            lists[split] = require_set_file(root, file, about.needs[file])
    return lists


def _collect(lists: Mapping[str, Path], prefixes: Prefixes) -> tuple[dict[str, Line], dict[str, np.ndarray]]:
    """The first line of each image, by id, and the splits' row numbers."""
    images: dict[str, Line] = {}
    rows: dict[str, int] = {}
    splits = {}
    for split, path in lists.items():
        members: dict[int, None] = {}
        lines = 0
        for line in _lines(path):
            lines += 1
            _check_count(line, next(iter(images.values()), line))
            image = prefixes.name(line.path)
            known = images.setdefault(image, line)
            if known.labels != line.labels:
                raise SdcError(f"{line}: {image} has other labels than in {known}, expected the same ones")
            members[rows.setdefault(image, len(rows))] = None
        if not members:
            raise SdcError(f"{path} is empty, expected lines `path labels`")
        if lines > len(members):
            log.warning("%s: %d lines name an image again, which counts once", path, lines - len(members))
        splits[split] = np.fromiter(members, np.int64, len(members))
    return images, splits


def _lines(path: Path) -> Iterator[Line]:
    """The lines that are not blank.

    Raises:
        SdcError: a line is no path with labels behind it, or the file is no text.
    """
    for number, text in enumerate(text_lines(path), 1):
        if text and not text.isspace():
            yield _parsed(path, number, text.strip())


def _parsed(file: Path, number: int, text: str) -> Line:
    words = text.split()
    start = len(words)
    while start > 1 and words[start - 1].isdecimal() and words[start - 1].isascii():
        start -= 1
    labels = words[start:]
    path = text.rsplit(None, len(labels))[0] if labels else words[0]
    line = Line(file, number, path, " ".join(labels))
    if start > 1 and not (labels and path.lower().endswith(SUFFIXES)):
        raise SdcError(f"{line}: found {words[start - 1]!r}, expected a path, then labels: whole numbers of 0 or more")
    if not labels:
        raise SdcError(f"{line}: no labels behind {path!r}, expected whole numbers of 0 or more")
    if len(labels) == 1:
        if int(labels[0]) > LARGEST:
            raise SdcError(f"{line}: class {labels[0]} is too large, expected at most {LARGEST}")
        return line._replace(labels=str(int(labels[0])))
    strange = [label for label in labels if label not in ("0", "1")]
    if strange:
        raise SdcError(f"{line}: found {strange[0]} among {len(labels)} labels, expected zeros and ones")
    return line


def _check_count(line: Line, first: Line) -> None:
    count, expected = (1 + each.labels.count(" ") for each in (line, first))
    if count != expected:
        raise SdcError(f"{line}: found {count} labels behind {line.path!r}, expected {expected} as in {first}")


def _labels(images: Mapping[str, Line]) -> np.ndarray:
    """(N,) int32 numbers of classes, or (N, C) uint8 zeros and ones."""
    texts = [line.labels for line in images.values()]
    if " " not in texts[0]:
        return np.array(texts, np.int32)
    digits = np.frombuffer(" ".join(texts).encode() + b" ", np.uint8).reshape(len(texts), -1)
    return digits[:, ::2] - ord("0")


def _sizes(paths: Iterable[Path]) -> list[int]:
    sizes = []
    for path in paths:
        try:
            sizes.append(os.stat(path).st_size)
        except OSError:
            sizes.append(MISSING)
    return sizes


def _report_missing(
    root: Path, images: Mapping[str, Line], path_of: Callable[[int], Path], sizes: Sequence[int]
) -> None:
    """Counts the images that are not there: each is left out and listed when its turn comes.

    Raises:
        SdcError: none is there.
    """
    missing = sizes.count(MISSING)
    if not missing:
        return
    row = sizes.index(MISSING)
    line = list(images.values())[row]
    if missing == len(sizes):
        listed = PurePosixPath(line.path)
        finding = [folder for folder in listed.parents if (root / listed.relative_to(folder)).exists()]
        advice = "--strip-prefix takes leading folders off, --add-prefix puts a folder in front"
        raise SdcError(
            f"none of the {missing} images listed is there: {line} names {listed}, sought as {path_of(row)}; "
            f"{f'try --strip-prefix {finding[0]}' if finding else advice}"
        )
    log.warning("%d of %d images listed are not there, the first is %s (%s)", missing, len(sizes), path_of(row), line)
