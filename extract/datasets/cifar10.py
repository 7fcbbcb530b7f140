"""CIFAR10 (Krizhevsky 2009): 60000 colour images of 32 x 32 pixels in 10 classes, from its pickles for Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.extract.datasets.base import About, Images, LoadOptions, require_set_file
from sdc.extract.datasets.fashion_mnist import splits
from sdc.extract.readers import read_pickle, read_tables
from sdc.extract.store import SPLITS, Listing
from sdc.files import checksum, fingerprint, require_file

FOLDER = "cifar-10-batches-py"
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
SOURCE = "cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html, unpacked"
SIDE = 32
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = {"labels": dict(enumerate(NAMES))}
ABOUT = About(
    "60,000 colour images of 32 x 32 pixels in 10 classes",
    needs={f"{FOLDER}/{batch}": SOURCE for batch in BATCHES},
    splits="of each class, shuffled by --seed, 100 query, 5,900 database, 500 of these train: 5,000 / 1,000 / 59,000; "
    "or --split FILE.npz with row numbers train, query and database (data_batch_1 to 5, then test_batch)",
    labels="1 of 10 classes",
    resize="squash",
    options=("split",),
    own_folder=True,
)


def load(root: Path, options: LoadOptions) -> Images:
    """All six batches as one pool, in the order of `BATCHES`.

    Args:
        root: the folder `cifar-10-batches-py`, or the one that it is in.
        options: `split` is an npz with row numbers `train`, `query` and `database`; images in none of them are left
            out. By default splits of each class by `seed`.

    Raises:
        UsageError: `split` is no npz.
        SdcError: a batch is missing or is not as it must be, or `split` does not fit.
    """
    within = "" if (root / BATCHES[0]).is_file() and not (root / FOLDER).is_dir() else f"{FOLDER}/"
    parts = [_read(require_set_file(root, within + batch, SOURCE)) for batch in BATCHES]
    pool, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    ids = [f"{batch}/{row:05d}" for batch, (part, _) in zip(BATCHES, parts, strict=True) for row in range(len(part))]
    del parts

    def picture(row: int):  # type: ignore[no-untyped-def]  # PIL is imported where it is used
        from PIL import Image

        return Image.fromarray(pool[rows[row]].reshape(3, SIDE, SIDE).transpose(1, 2, 0))

    if options.split is None:
        listing = Listing(ids, splits(labels, options.seed), labels, classes=CLASSES)
    else:
        listing = _imported(Path(options.split), ids, labels)
    rows = np.unique(np.concatenate([*listing.splits.values()]))
    content = fingerprint({"images": checksum(pool), "labels": checksum(labels)})
    return Images(listing.select(rows), picture, content)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images of a batch, (n, 3072) uint8: red, green, blue; and their classes, (n,) int32."""
    content = read_pickle(path, encoding="bytes")
    expected = (
        f"{path}: expected a dict with b'data', (n, {3 * SIDE * SIDE}) bytes, and b'labels', n numbers from 0 to 9"
    )
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        found = f"the keys {sorted(map(str, content))[:8]}" if isinstance(content, dict) else type(content).__name__
        raise SdcError(f"{expected}; found {found}: is it of the Python version of CIFAR10?")
    data, labels = content[b"data"], content[b"labels"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(data), 3 * SIDE * SIDE):
        raise SdcError(f"{expected}; found data of shape {np.shape(data)}: fetch it again")
    if not isinstance(labels, list) or [label for label in labels if label in range(len(NAMES))] != labels:
        raise SdcError(f"{expected}; found labels that are none: fetch it again")
    if len(labels) != len(data):
        raise SdcError(f"{expected}; found {len(data)} images, but {len(labels)} labels: fetch it again")
    return data, np.array(labels, np.int32)


def _imported(path: Path, ids: list[str], labels: np.ndarray) -> Listing:
    """The pool with the splits of an npz."""
    if path.suffix.lower() != ".npz":
        raise UsageError(f"--split {path}: expected an npz with row numbers {', '.join(SPLITS)}")
    tables = {table.name: table for table in read_tables(require_file(path, "file of splits", "numpy.savez"))}
    if set(tables) != set(SPLITS):
        raise SdcError(f"{path}: found {', '.join(sorted(tables)) or 'nothing'}, expected arrays {', '.join(SPLITS)}")
    try:
        return Listing(ids, {name: tables[name].read() for name in SPLITS}, labels, classes=CLASSES)
    except SdcError as error:
        raise SdcError(f"{path}: {error}") from error
