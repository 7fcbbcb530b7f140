"""Tar shards as WebDataset lays them out: 000000.tar, ..., with the files of a sample next to each other.

    0001.jpg  0001.cls  0002.jpg  0002.cls

A sample's key is its path up to the first dot of the file's name; what follows says what the file is. The shards are
indexed by the headers of their members, and an image is read from its place in them: nothing is unpacked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdc.devices import is_main_process
from sdc.errors import SdcError, log
from sdc.extract.datasets.base import About, Images, LoadOptions
from sdc.extract.datasets.tar_shards import SEVERAL, compressed_text, index_shard, shard_image
from sdc.extract.store import NO_LABEL, EncodedIds, Listing, PackedIds, default_splits
from sdc.files import checksum, fingerprint
from sdc.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

DEPTHS = ("*", "*/*", "*/*/*")  # where shards lie below the root
SPLIT_NAMES = {
    "train": "train", "query": "query", "val": "query", "validation": "query", "test": "query", "database": "database",
}  # fmt: skip
COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)", re.IGNORECASE)
ABOUT = About(
    "tar shards in the layout of WebDataset",
    needs={"000000.tar, train-000000.tar, train/000000.tar or the like": "wherever you have them; not compressed"},
    splits="by folders or shards with train, query (or val, test) and database in their names, train and database "
    "being the same where one of them is not there; else 1 in 10 query, at most 1,000",
    labels="the number in .cls, or in .json under label or cls: in all samples or in none",
)


def load(root: Path, options: LoadOptions) -> Images:
    """All samples of the shards below `root`, in the order of the shards' paths; the seed is for the default splits.

    An id is the shard's path without .tar, and the key: train/000000/0001. A sample with no image, or with several
    (0001.mask.png beside 0001.jpg is none), is left out as one that cannot be read.

    Raises:
        SdcError: no shard; one that is compressed, cut off or damaged; shards of which only some name a split;
            samples of which only some have labels, or labels that are no whole numbers of 0 or more.
    """
    paths = _shards(root)
    names = [path.relative_to(root).as_posix().removesuffix(".tar") for path in paths]
    shards = []
    with Progress("list", len(paths), "shards", silent=not is_main_process()) as progress:
        for path, name in zip(paths, names, strict=True):
            shards.append(index_shard(path, name))
            progress.advance()
    packed, *columns = zip(*shards, strict=True)
    ids, (offsets, sizes, labels) = PackedIds.joined(packed), map(np.concatenate, columns)
    if not len(ids):
        raise SdcError(f"no sample in {root}: its {len(paths)} shards hold no files such as 0001.jpg")
    if len(several := np.flatnonzero(sizes == SEVERAL)):
        log.warning(
            "%d samples hold several images and are left out, the first is %s: a key ends at the first dot of a name",
            len(several), ids[int(several[0])],
        )  # fmt: skip
    starts = np.cumsum([0, *(len(shard[0]) for shard in shards)])
    del shards

    def picture(row: int) -> Image:
        shard = paths[int(np.searchsorted(starts, row, side="right")) - 1]
        return shard_image(shard, int(offsets[row]), int(sizes[row]))

    return Images(
        Listing(ids, _splits(names, starts, options.seed), _checked_labels(labels, ids)),
        picture,
        content=fingerprint({"sizes": checksum(sizes)}),  # they stand for contents: to read all takes long
    )


def _shards(root: Path) -> list[Path]:
    """The shards, in the order of their paths."""
    files = [path for depth in DEPTHS for path in root.glob(depth) if path.is_file() and path.name[0] != "."]
    for path in sorted(files):
        if COMPRESSED.fullmatch("".join(path.suffixes[-2:])) or COMPRESSED.fullmatch(path.suffix):
            raise SdcError(compressed_text(path))
    shards = sorted(path for path in files if path.suffix == ".tar")
    if not shards:
        raise SdcError(
            f"no shard in {root}: expected files such as 000000.tar there or up to two folders down; correct --root"
        )
    return shards


def _checked_labels(labels: np.ndarray, names: EncodedIds) -> np.ndarray | None:
    without = np.flatnonzero(labels == NO_LABEL)
    if len(without) == len(labels):
        return None
    if len(without):
        raise SdcError(
            f"{len(without)} of {len(labels)} samples have no label (.cls, or label in .json), the first is "
            f"{names[int(without[0])]}: expected one in all or in none"
        )
    return labels


def _splits(names: Sequence[str], starts: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The splits that the shards' paths name, or `default_splits` where there is no query or nothing else.

    Raises:
        SdcError: some name one and others none.
    """
    split_names = [_split(name) for name in names]
    if None in split_names and any(split_names):
        some = next(name for name, split in zip(names, split_names, strict=True) if split)
        raise SdcError(
            f"{names[split_names.index(None)]}.tar names no split, but {some}.tar does: expected train, query or "
            "database in the names of all of them or of none"
        )
    members: dict[str, list[np.ndarray]] = {}
    for shard, split in enumerate(split_names):
        if split:
            members.setdefault(split, []).append(np.arange(starts[shard], starts[shard + 1]))
    splits = {split: np.concatenate(rows) for split, rows in members.items()}
    if "query" not in splits or len(splits) == 1:
        if splits:
            log.warning("all shards are named %s: splits are taken from them at random", *splits)
        return default_splits(int(starts[-1]), seed)
    for absent, other in (("train", "database"), ("database", "train")):
        if absent not in splits:
            splits[absent] = splits[other]
    return splits


def _split(name: str) -> str | None:
    """The first split that a shard's path names, word by word: train-000000, imagenet/validation/00.

    A word is what stands between other characters than letters.
    """
    words = re.split("[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
