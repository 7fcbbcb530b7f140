"""Any folder of images, with the first level of subfolders as labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.datasets.base import About, Images, LoadOptions
from sdc.extract.datasets.image_tree import NOT_UTF8, find_images
from sdc.extract.image_files import open_file
from sdc.extract.store import SPLITS, Listing, default_splits, number_names
from sdc.files import fingerprint
from sdc.text import text_lines

if TYPE_CHECKING:
    from PIL.Image import Image

ABOUT = About(
    "any folder of images",
    needs={"images (.jpg, .png, ...) at any depth": "wherever you have them"},
    splits="--split RATIO (the share of queries) or FILE (lines `path split`); else 1 in 10 query, at most 1,000",
    labels="the first level of subfolders, if there is one: whole numbers stay those numbers",
    options=("split", "exclude"),
)


def load(root: Path, options: LoadOptions) -> Images:
    """All images below `root`, in the order of their paths, which are their ids.

    Args:
        options: `split` is a ratio such as "0.1": that share, at random, becomes queries, the others database and
            train. Or a text file with lines `path split`, paths relative to `root`; a path may stand on several
            lines, and images without a line are left out. By default `default_splits`. `exclude` are patterns of what
            to leave out, see `sdc.extract.datasets.image_tree.is_excluded`.

    Raises:
        UsageError: a ratio out of (0, 1), a split file that is not there.
        SdcError: no image in it, a split file that names an unknown image or split.
    """
    split, tree = options.split, find_images(root, options.exclude)
    if not tree.sizes:
        others = f" (found {tree.describe_others()})" if tree.others else ""
        raise SdcError(f"no image in {root}{others}: expected files such as a.jpg or a.png, at any depth")
    tree.report(root)
    names = sorted(tree.sizes)
    if split is None:
        splits = default_splits(len(names), options.seed)
    elif (ratio := _number(split)) is not None:
        splits = _ratio_splits(len(names), ratio, options.seed)
    else:
        names, splits = _file_splits(Path(split), names, root)

    def picture(row: int) -> Image:
        if names[row] in tree.unnamed:
            raise ValueError(NOT_UTF8)
        return open_file(root / names[row])

    labels, classes = _labels(names)
    return Images(
        Listing(names, splits, labels, classes={"labels": classes}),
        picture,
        # Sizes stand for contents: to read all takes long.
        content=fingerprint({name: tree.sizes[name] for name in names}),
    )


def _labels(names: list[str]) -> tuple[np.ndarray | None, dict[int, str]]:
    """Labels by the first level of subfolders, and their names; None without subfolders."""
    folders = [name.split("/")[0] if "/" in name else None for name in names]
    if None in folders:
        if any(folders):
            log.warning(
                "no labels: %d of %d images lie in no subfolder (the first is %s)",
                folders.count(None), len(names), names[folders.index(None)],
            )  # fmt: skip
        return None, {}
    return number_names([str(folder) for folder in folders])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _ratio_splits(n: int, ratio: float, seed: int) -> dict[str, np.ndarray]:
    if not 0 < ratio < 1:
        raise UsageError(f"--split {ratio:g}: expected a ratio between 0 and 1, such as 0.1, or a file")
    if n < 2:
        raise SdcError(f"--split {ratio:g}: found {n} image, expected at least 2 to split")
    order = np.random.default_rng(seed).permutation(n)
    queries = min(max(1, round(ratio * n)), n - 1)
    return {"query": order[:queries], "database": order[queries:], "train": order[queries:]}


def _file_splits(path: Path, names: list[str], root: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The images that the file names, and their splits."""
    if not path.exists():
        raise UsageError(f"--split {path}: no such file, and no ratio such as 0.1 either")
    known = set(names)
    members: dict[str, set[str]] = {split: set() for split in SPLITS}
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        name, split = ("", *line.strip().rsplit(None, 1))[-2:]
        if split not in SPLITS:
            raise SdcError(f"{path}, line {number}: unknown split {split!r}, expected one of {', '.join(SPLITS)}")
        if name not in known:
            raise SdcError(f"{path}, line {number}: no image {name!r} in {root}, expected a path relative to it")
        members[split].add(name)
    listed = sorted(set().union(*members.values()))
    if not listed:
        raise SdcError(f"{path} is empty, expected lines `path split`")
    if len(listed) < len(names):
        log.info("%d of %d images are in no split of %s: left out", len(names) - len(listed), len(names), path)
    rows = {name: row for row, name in enumerate(listed)}
    return listed, {split: np.array(sorted(rows[name] for name in members[split]), np.int64) for split in SPLITS}
