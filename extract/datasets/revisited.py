"""Revisited Oxford and Paris (Radenović et al. 2018): 70 queries with a box each, and what is easy, hard or junk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.errors import SdcError
from sdc.extract.datasets.base import About, Images, require_set_file
from sdc.extract.image_files import open_file
from sdc.extract.readers import read_pickle
from sdc.extract.store import Listing, Ragged
from sdc.files import checksum, fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image

PROTOCOL = {"name": "revisited"}
LEVELS = ("easy", "hard", "junk")
SOURCE = "the authors of the revisited annotations (cmp.felk.cvut.cz/revisitop)"
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Revisited:
    """The ground truth of a gnd_*.pkl.

    Attributes:
        images: names of the database's n images, without ending.
        queries: names of the queries.
        boxes: of each query the left, upper, right and lower border of what is sought in it, in pixels.
        groundtruth: of each query, by `LEVELS`, numbers of `images`.
    """

    images: list[str]
    queries: list[str]
    boxes: list[Box]
    groundtruth: dict[str, Ragged]

    def listing(self, order: Sequence[str] | None = None) -> Listing:
        """The database, then the queries; or all of them in another `order`.

        Raises:
            SdcError: `order` does not name each of them once.
        """
        names = [*self.images, *self.queries]
        rows = np.arange(len(names))  # of each name
        if order is not None:
            row_of = {name: row for row, name in enumerate(order)}
            strange = sorted({*row_of} ^ {*names})
            if strange:
                raise SdcError(f"{len(strange)} names are in the ground truth or the ids alone, such as {strange[0]}")
            rows = np.array([row_of[name] for name in names], np.int64)
        database, query = np.split(rows, [len(self.images)])
        truth = {level: lists.take(np.argsort(query)).renumbered(database) for level, lists in self.groundtruth.items()}
        return Listing(names if order is None else order, {"database": database, "query": query}, groundtruth=truth)


def about_revisited(place: str, folder: str, images: str, source: str, count: int) -> About:
    """What `sdc datasets` says of one of the two."""
    return About(
        f"photographs of {place}, revisited annotations",
        needs={f"{folder}/gnd_{folder}.pkl": SOURCE, f"{folder}/jpg/{images}": source},
        splits=f"70 query, cropped to their boxes, {count} database; no train: take a head that was trained on gldv2",
        labels="of each query the database images that are easy, hard or junk",
        protocol=PROTOCOL,
        resize="longest",
        own_folder=True,
    )


def load_revisited(folder: str, source: str, root: Path) -> Images:
    """The images of `folder`/jpg.

    Args:
        source: where the images come from.
        root: the folder `folder`, or the one that it is in.

    Raises:
        SdcError: the ground truth or an image is missing, or the ground truth is not as it must be.
    """
    within = "" if (root / f"gnd_{folder}.pkl").is_file() and not (root / folder).is_dir() else f"{folder}/"
    path = require_set_file(root, f"{within}gnd_{folder}.pkl", SOURCE)
    truth = read_groundtruth(path)
    listing = truth.listing()
    files = [path.parent / "jpg" / f"{image}.jpg" for image in listing.ids]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise SdcError(f"{len(missing)} of {len(files)} images of {path} are not there, first {missing[0]}: {source}")

    def picture(row: int) -> Image:
        query = row - len(truth.images)
        return cropped(files[row], truth.boxes[query]) if query >= 0 else open_file(files[row])

    sizes = [file.stat().st_size for file in files]  # they stand for contents: to read all takes long
    content = fingerprint({"gnd": checksum(path.read_bytes()), "sizes": sizes})
    return Images(listing, picture, content)


def cropped(path: Path, box: Box) -> Image:
    """The part of an image that lies in `box`, whose borders are rounded to whole pixels.

    Raises:
        ValueError: nothing of the image does.
        Exception: whatever PIL raises for a damaged image.
    """
    left, upper, right, lower = map(round, box)
    with open_file(path) as image:
        inside = (max(left, 0), max(upper, 0), min(right, image.width), min(lower, image.height))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise ValueError(f"its box {box} has nothing of its {image.width} x {image.height} pixels")
        return image.crop(inside)


def read_groundtruth(path: Path) -> Revisited:
    """Reads gnd_roxford5k.pkl, gnd_rparis6k.pkl or one like them, unpickling plain values alone.

    Raises:
        SdcError: no such file; a pickle of other things; a missing key; a number that is none of the database's.
    """
    content = read_pickle(path, "latin1")
    images, queries, entries = (_list(path, content, key) for key in ("imlist", "qimlist", "gnd"))
    for key, names in (("imlist", images), ("qimlist", queries)):
        for number, name in enumerate(names):
            if not isinstance(name, str):
                raise SdcError(f"{path}: {key} holds {name!r} at {number}, expected names of images")
    if len(entries) != len(queries):
        raise SdcError(f"{path}: gnd has {len(entries)} entries, expected {len(queries)}, one for each of qimlist")
    lists: dict[str, list[np.ndarray]] = {level: [] for level in LEVELS}
    boxes = []
    for query, entry in zip(queries, entries, strict=True):
        where = f"{path}: query {query}"
        for level in LEVELS:
            lists[level].append(_numbers(where, entry, level, len(images)))
        boxes.append(_box(where, entry))
    return Revisited(images, queries, boxes, {level: Ragged.of(lists[level]) for level in LEVELS})


def _value(where: object, holder: Any, key: str) -> Any:
    if not isinstance(holder, dict) or key not in holder:
        keys = ", ".join(map(str, holder)) if isinstance(holder, dict) else type(holder).__name__
        raise SdcError(f"{where} has no {key} (found {keys}): expected the revisited annotations, of {SOURCE}")
    return holder[key]


def _list(path: Path, holder: object, key: str) -> list[Any]:
    value = _value(path, holder, key)
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise SdcError(f"{path}: {key} is a {type(value).__name__}, expected a list")
    return [item.item() if isinstance(item, np.generic) else item for item in value]


def _numbers(where: str, entry: object, level: str, n: int) -> np.ndarray:
    value = np.asarray(_value(where, entry, level))
    if value.size == 0:
        return np.empty(0, np.int64)
    if value.ndim != 1 or value.dtype.kind not in "iu":
        raise SdcError(f"{where}: {level} holds {value.dtype} of shape {value.shape}, expected a list of whole numbers")
    outside = value[(value < 0) | (value >= n)]
    if outside.size:
        raise SdcError(f"{where}: {level} has the index {outside[0]}, expected 0 to {n - 1}, places in imlist")
    return value


def _box(where: str, entry: object) -> Box:
    value = _value(where, entry, "bbx")
    try:
        left, upper, right, lower = map(float, value)
    except (TypeError, ValueError):
        left = upper = right = lower = math.nan
    if not (math.isfinite(left + upper + right + lower) and left < right and upper < lower):
        raise SdcError(f"{where}: bbx is {value!r}, expected left, upper, right, lower")
    return left, upper, right, lower
