"""Fashion-MNIST: 70000 grey images of 28 x 28 pixels in 10 classes (Xiao, Rasul and Vollgraf 2017).

The coarse labels above the classes are ours: what is worn where.

    0 tops      T-shirt/top (0), pullover (2), coat (4), shirt (6)
    1 bottoms   trouser (1)
    2 dresses   dress (3)
    3 shoes     sandal (5), sneaker (7), ankle boot (9)
    4 bags      bag (8)
"""

from __future__ import annotations

import gzip
import math
import os
import socket
import zlib
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, log
from sdc.extract.datasets.base import About, Images, LoadOptions
from sdc.extract.store import Listing
from sdc.files import checksum, fingerprint

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it
HALVES = ("train", "t10k")
QUERIES, TRAINING = 100, 500  # of each class
COARSE = np.array([0, 1, 0, 2, 0, 3, 0, 3, 4, 3], np.int32)  # the coarse label of each class
CLASSES = {
    "labels": dict(
        enumerate(
            ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
        )
    ),
    "labels_coarse": dict(enumerate(("tops", "bottoms", "dresses", "shoes", "bags"))),
}
ABOUT = About(
    "70,000 grey images of 28 x 28 pixels, articles of clothing in 10 classes",
    needs={
        f"{half}-{kind}-ubyte.gz": "Debian's package dataset-fashion-mnist; else downloaded"
        for half in HALVES
        for kind in ("images-idx3", "labels-idx1")
    },
    splits="of each class 100 query, 6,900 database, 500 of these train: 5,000 / 1,000 / 69,000",
    labels="1 of 10 classes, 5 coarse ones above",
    resize="squash",
    finds_itself=True,
)


def load(root: Path | None, options: LoadOptions) -> Images:
    """The pool of both halves, train first, with the split that the comparisons use; no options.

    The files are taken from `root`, else from the Debian package, else downloaded into the user's cache.

    Raises:
        SdcError: files are missing or damaged, or cannot be downloaded.
    """
    folder = _folder(root)
    images = [_read(folder, f"{half}-images-idx3-ubyte", 3) for half in HALVES]
    labels = [_read(folder, f"{half}-labels-idx1-ubyte", 1) for half in HALVES]
    for half, pictures, classes in zip(HALVES, images, labels, strict=True):
        if len(pictures) != len(classes):
            raise SdcError(f"{folder}: {half} has {len(pictures)} images but {len(classes)} labels, expected as many")
    pool, classes = np.concatenate(images), np.concatenate(labels).astype(np.int32)
    if classes.max(initial=0) >= len(COARSE):
        raise SdcError(f"{folder}: found label {classes.max()}, expected 0 to 9; fetch the files again")
    ids = [f"{half}/{row:05d}" for half, part in zip(HALVES, images, strict=True) for row in range(len(part))]

    def picture(row: int):  # type: ignore[no-untyped-def]  # PIL is imported where it is used
        from PIL import Image

        return Image.fromarray(pool[row])

    return Images(
        Listing(ids, splits(classes), classes, COARSE[classes], classes=CLASSES),
        picture,
        content=fingerprint({"images": checksum(pool), "labels": checksum(classes)}),
    )


def splits(labels: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """100 queries of each class 0 to 9, the rest is the database, and 500 of that are the training rows."""
    rng = np.random.RandomState(seed)
    query, train, database = [], [], []
    for label in range(10):
        rows = rng.permutation(np.flatnonzero(labels == label))
        query.append(rows[:QUERIES])
        train.append(rows[QUERIES : QUERIES + TRAINING])
        database.append(rows[QUERIES:])
    return {"train": np.concatenate(train), "query": np.concatenate(query), "database": np.concatenate(database)}


def _folder(root: Path | None) -> Path:
    """The folder that holds the four files, after a download if need be."""
    if root is not None:
        for folder in (root, root / "FashionMNIST" / "raw"):  # the latter as torchvision lays it out
            if _complete(folder):
                return folder
        raise SdcError(
            f"no Fashion-MNIST in {root}: expected train- and t10k-images-idx3-ubyte and -labels-idx1-ubyte there, "
            "plain or .gz; name the folder they lie in, or leave out --root to have them found or downloaded"
        )
    if _complete(DEBIAN):
        return DEBIAN
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sdc"
    raw = cache / "FashionMNIST" / "raw"
    if not _complete(raw):
        _download(cache)
    return raw


def _complete(folder: Path) -> bool:
    names = [f"{half}-{kind}" for half in HALVES for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names)


def _download(cache: Path) -> None:
    from torchvision.datasets import FashionMNIST

    log.info("Fashion-MNIST is not on this machine: downloading 30 MB to %s", cache)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # else a network that swallows packets makes us wait for minutes
    try:
        FashionMNIST(cache, download=True)
    except (OSError, RuntimeError) as error:
        raise SdcError(
            f"cannot download Fashion-MNIST to {cache} ({error}): install Debian's dataset-fashion-mnist, or put its "
            "four files (train- and t10k-images-idx3-ubyte.gz and -labels-idx1-ubyte.gz) into a folder and name it "
            "with --root"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)


def _read(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """An idx file of bytes as an array; plain if it is there, else from its .gz."""
    path = folder / name
    try:
        data = path.read_bytes() if path.is_file() else gzip.decompress((path := folder / f"{name}.gz").read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SdcError(f"cannot read {path} ({error}): fetch it again") from error
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(data[place : place + 4], "big") for place in range(4, start, 4)]
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != start + math.prod(shape):
        raise SdcError(
            f"{path} is damaged: found {len(data)} bytes that begin {data[:4].hex()}, expected an idx file of bytes in "
            f"{dimensions} dimensions ({bytes([0, 0, 8, dimensions]).hex()}) and its whole content; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
