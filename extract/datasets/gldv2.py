"""Google Landmarks v2 (Weyand et al. 2020): train_clean, the index as database, and the retrieval track's queries.

Millions of images: ids are kept as bytes, and no image is looked for before its turn comes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdc.errors import SdcError
from sdc.extract.datasets.base import About, Images, LoadOptions, require_set_file
from sdc.extract.image_files import open_file
from sdc.extract.store import IdArray, Listing, Ragged
from sdc.files import checksum, fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = "github.com/cvdfoundation/google-landmark"
TRAIN, INDEX, SOLUTION = "train_clean.csv", "index.csv", "retrieval_solution_v2.1.csv"
FOLDERS = {TRAIN: "train", INDEX: "index", SOLUTION: "test"}
USAGES = ("Public", "Private", "Ignored")
PROTOCOL = {"name": "relevant", "at": 100}
ID = re.compile("[0-9a-f]{16}")
LOOKED_FOR = 100  # images of each folder, one of which must be there
ABOUT = About(
    "1.2 million photographs of landmarks to train on, 762,000 to search in",
    needs={
        **dict.fromkeys(FOLDERS, SOURCE),
        **{f"{folder}/a/b/c/abc....jpg": f"{SOURCE}, the folder {folder}" for folder in FOLDERS.values()},
    },
    splits="train_clean.csv train, index.csv database, the 1,129 Public and Private queries of the solution",
    labels="of each query the relevant images",
    protocol=PROTOCOL,
    resize="longest",
)


def load(root: Path, options: LoadOptions) -> Images:
    """The three splits, train first, then database, then queries; no options.

    An id is the folder and the image's id, such as train/17660ef415d37059. An image that is not there is left out, as
    one that cannot be read. The CSV files may also lie in the folders; test.csv is not needed.

    Raises:
        SdcError: a CSV file is missing or is not as it must be, or none of the first images of a folder is there.
    """
    paths = {name: _csv(root, name) for name in FOLDERS}
    train = _ids(paths[TRAIN], "images")
    index = _ids(paths[INDEX], "id")
    queries, relevant = _solution(paths[SOLUTION], index)
    parts = {"train": train, "database": index, "query": queries}
    encoded = np.concatenate(
        [
            np.char.add(f"{folder}/".encode(), part)
            for folder, part in zip(FOLDERS.values(), parts.values(), strict=True)
        ]
    )
    ends = np.cumsum([0, *map(len, parts.values())]).tolist()
    splits = {name: np.arange(*ends[number : number + 2]) for number, name in enumerate(parts)}
    groundtruth = {"relevant": Ragged.of([numbers + ends[1] for numbers in relevant])}
    names = IdArray(encoded)
    for rows in splits.values():
        _check_some_exist(root, [names[row] for row in rows[:LOOKED_FOR].tolist()])

    def picture(row: int) -> Image:
        return open_file(_file(root, names[row]))

    content = fingerprint({name: checksum(path.read_bytes()) for name, path in paths.items()})
    return Images(Listing(names, splits, groundtruth=groundtruth), picture, content)


def _csv(root: Path, name: str) -> Path:
    within = root / FOLDERS[name] / name
    return within if within.is_file() else require_set_file(root, name, SOURCE)


def _file(root: Path, name: str) -> Path:
    folder, image = name.split("/")
    return root / folder / image[0] / image[1] / image[2] / f"{image}.jpg"


def _check_some_exist(root: Path, names: Sequence[str]) -> None:
    """Raises SdcError if none of these images is there, as where the root is wrong."""
    if names and not any(_file(root, name).is_file() for name in names):
        raise SdcError(
            f"no {_file(root, names[0])}, nor any of {len(names)} images looked for beside it: it comes from {SOURCE}; "
            "correct --root, or fetch them"
        )


def _rows(path: Path, *columns: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the `columns` of each row of a CSV file.

    Raises:
        SdcError: a column is missing, a row is short, or the file is no text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            for column in columns:
                if column not in header:
                    columns_found = ", ".join(header)[:80] or "nothing"
                    raise SdcError(f"{path} has no column {column} (found {columns_found}): fetch it from {SOURCE}")
            indices = [header.index(column) for column in columns]
            for row in reader:
                if row and len(row) < len(header):
                    raise SdcError(f"{path}, line {reader.line_num}: found {len(row)} columns, expected {len(header)}")
                if row:
                    yield reader.line_num, [row[index] for index in indices]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SdcError(f"cannot read {path} ({error}): fetch it from {SOURCE}") from error


def _ids(path: Path, column: str) -> np.ndarray:
    """All ids of a column, in their order, as bytes: (n,) S16."""
    encoded = bytearray()
    for line, (text,) in _rows(path, column):
        for image in text.split():
            encoded += _checked(path, line, image)
    if not encoded:
        raise SdcError(f"{path} names no image: fetch it from {SOURCE}")
    return np.frombuffer(bytes(encoded), "S16")


def _checked(path: Path, line: int, image: str) -> bytes:
    if not ID.fullmatch(image):
        raise SdcError(f"{path}, line {line}: {image!r} is no id, expected 16 characters of 0-9 and a-f")
    return image.encode()


def _solution(path: Path, index: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The queries that count, (q,) S16, and of each the row numbers in `index` of its relevant images."""
    order = np.argsort(index)
    queries, relevant = [], []
    for line, (query, images, usage) in _rows(path, "id", "images", "Usage"):
        if usage not in USAGES:
            raise SdcError(f"{path}, line {line}: Usage is {usage!r}, expected {', '.join(USAGES)}")
        if usage == "Ignored":
            continue
        ids = np.array([_checked(path, line, image) for image in images.split()], "S16")
        rows = order[np.searchsorted(index, ids, sorter=order).clip(max=len(index) - 1)]
        unknown = ids[index[rows] != ids]
        if len(unknown):
            raise SdcError(f"{path}, line {line}: {unknown[0].decode()} is not in {INDEX}: fetch both again")
        queries.append(_checked(path, line, query))
        relevant.append(rows)
    if not queries:
        raise SdcError(f"{path} has no query of Usage Public or Private: fetch it from {SOURCE}")
    return np.array(queries, "S16"), relevant
