"""`sdc import`: existing vectors, with labels, ids and splits where there are any, become feats.h5.

Vectors are streamed from the source into the store: however large they are, only a few blocks are in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, overload

import numpy as np

from sdc._version import __version__
from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.extract.datasets import revisited
from sdc.extract.datasets.revisited import Revisited
from sdc.extract.parts.part_set import settled
from sdc.extract.readers.readers import tables
from sdc.extract.readers.table import Table
from sdc.extract.store.store import Listing, default_splits, write_features
from sdc.files import require_file
from sdc.progress import Progress

NAMES = ("features", "embeddings", "vectors")
LABELS, COARSE, IDS = "labels", "labels_coarse", "ids"
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class ImportSettings:
    """What `sdc import` takes.

    Attributes:
        vectors: npy, npz, parquet, safetensors, HDF5, fvecs, bvecs or what torch.save wrote; of several arrays the one
            named features, embeddings or vectors, else the only two-dimensional one of floats.
        labels: one a row: text (one a line), npy, or a column of parquet; whole numbers, zeros and ones
            (N, C), or names, which become numbers in their sorted order. By default `labels` beside the vectors.
        labels_coarse: a second level above `labels`, in the same forms. By default `labels_coarse` beside the vectors.
        ids: one a row: text (one a line) or npy. By default `ids` beside the vectors (`id` in what torch.save wrote),
            else the row numbers.
        splits: npz with row numbers `train`, `query`, `database`. By default `store.default_splits`.
        groundtruth: gnd_roxford5k.pkl or one like it, which makes the splits as well. Where the ids are the names of
            its images (an ending or folders aside), rows go by these; else they must be its images, then its queries.
        dtype: float16 or float32; by default what the vectors have: float16 stays, all else becomes float32.
        seed: of the default splits.
        out: the feature store to write.
        overwrite: replace an `out` of other settings.
    """

    vectors: Path
    labels: Path | None = None
    labels_coarse: Path | None = None
    ids: Path | None = None
    splits: Path | None = None
    groundtruth: Path | None = None
    dtype: str | None = None
    seed: int = 0
    out: Path = Path("feats.h5")
    overwrite: bool = False


def run(settings: ImportSettings) -> Path:
    """Imports vectors into a feature store.

    Raises:
        UsageError: an unknown kind of file or dtype; no or several arrays that could be meant; coarse labels
            without labels; splits beside a ground truth; `out` exists with other settings.
        SdcError: a file is missing or damaged; labels, ids, splits or ground truth do not fit; values that are NaN or
            infinite.
    """
    out, source = Path(settings.out), require_file(Path(settings.vectors), "file of vectors", "numpy.save")
    if settings.dtype not in (None, *DTYPES):
        raise unknown_name_error("dtype", str(settings.dtype), DTYPES)
    if settings.seed < 0:
        raise UsageError(f"--seed is {settings.seed}, expected 0 or more")
    if settings.groundtruth is not None and settings.splits is not None:
        raise UsageError("--groundtruth makes the splits: leave out --splits")
    if out.exists() and out.samefile(source):
        raise UsageError(f"{out} is the file of vectors itself: choose another --out")
    truth = None if settings.groundtruth is None else revisited.read(Path(settings.groundtruth))
    found = tables(source)
    vectors = _vectors(source, found)
    n, d = vectors.shape
    labels = _labels(settings.labels, _beside(found, LABELS, n), LABELS, n)
    if settings.labels_coarse is not None and labels is None:
        raise UsageError("--labels-coarse is a level above labels, and there are none: give --labels as well")
    coarse = _labels(settings.labels_coarse, _beside(found, COARSE, n), COARSE, n)
    provenance = _provenance(settings, labelled=labels is not None)
    if settled(out, provenance, overwrite=settings.overwrite):
        return out
    ids = _ids(settings.ids, _beside(found, IDS, n), n)
    if truth is not None:
        listing = replace(_landmarks(truth, ids), labels=labels, labels_coarse=coarse)
    else:
        splits = default_splits(n, settings.seed) if settings.splits is None else _splits(settings.splits)
        listing = Listing(ids, splits, labels, coarse)
    dtype = settings.dtype or ("float16" if vectors.dtype == "float16" else "float32")
    log.info("import: %s of %s as %s", vectors, source, dtype)
    with Progress("import", n, "rows") as progress:
        return write_features(out, listing, provenance, d, dtype, _counted(vectors, progress))


def read_vectors(path: Path) -> tuple[np.ndarray, list[str]]:
    """The vectors of a file, (n, d), and their ids: those in the file, else the row numbers. All in memory.

    Raises:
        UsageError, SdcError: as `run` of the same file.
    """
    source = require_file(Path(path), "file of vectors", "numpy.save")
    found = tables(source)
    vectors = _vectors(source, found)
    return vectors.read(), list(_ids(None, _beside(found, IDS, vectors.shape[0]), vectors.shape[0]))


def _counted(vectors: Table, progress: Progress) -> Iterator[np.ndarray]:
    for block in vectors.blocks():
        yield block
        progress.advance(len(block))


def _vectors(source: Path, found: Sequence[Table]) -> Table:
    """The array of the file that holds the vectors."""
    matrices = [table for table in found if len(table.shape) == 2 and table.numeric]
    named = [table for table in matrices if _leaf(table) in NAMES]
    floats = [table for table in matrices if table.floating and _leaf(table) not in (LABELS, COARSE, IDS)]
    for choice in (named, floats, matrices if len(found) == 1 else []):
        if len(choice) == 1:
            vectors = choice[0]
            if 0 in vectors.shape:
                raise SdcError(f"{source} holds no values: found {vectors}, expected at least one row")
            return vectors
    listed = "; ".join(map(str, found)) or "nothing that could be read"
    raise UsageError(
        f"{source}: found {listed}; expected one two-dimensional array of floats, or one named {', '.join(NAMES)}"
    )


def _leaf(table: Table) -> str:
    return table.name.rsplit("/", 1)[-1]


def _beside(found: Sequence[Table], name: str, n: int) -> Table | None:
    """The array `name` of the vectors' own file, if it has one entry a row."""
    for table in found:
        if _leaf(table) == name:
            if table.shape[0] == n:
                return table
            log.warning("%s beside the vectors is not used: found %d, expected %d", name, table.shape[0], n)
    return None


def _labels(path: Path | None, beside: Table | None, name: str, n: int) -> np.ndarray | None:
    values = _given(path, beside, name, n)
    if values is None:
        return None
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.floor(values)).all():
        return values.astype(np.int64)
    if values.dtype.kind not in "OUS" or values.ndim != 1:
        return values  # whole numbers; or what the listing refuses
    names = _texts(values, path or name)
    if all(re.fullmatch(r"-?\d{1,18}", text) for text in names):
        return np.array([int(text) for text in names])
    classes, numbers = np.unique(np.array(names), return_inverse=True)
    log.info("%s: %d classes, numbered in this order: %s", name, len(classes), ", ".join(classes[:10].tolist()))
    return numbers


def _ids(path: Path | None, beside: Table | None, n: int) -> Sequence[str]:
    values = _given(path, beside, IDS, n)
    if values is None:
        return RowNumbers(n)
    if values.ndim != 1 or values.dtype.kind == "f":
        found = f"{values.dtype} of shape {values.shape}"
        raise SdcError(f"{path or IDS}: found {found}, expected text or whole numbers, one a row")
    return _texts(values, path or IDS)


def _given(path: Path | None, beside: Table | None, name: str, n: int) -> np.ndarray | None:
    """What the user's own file says, else what stands beside the vectors; one entry a row."""
    if path is None:
        return None if beside is None else beside.read()
    values = _column(Path(path), name)
    if len(values) != n:
        raise SdcError(f"{path}: found {len(values)} {name}, expected {n}, one a row of the vectors")
    return values


def _texts(values: np.ndarray, where: Path | str) -> list[str]:
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise SdcError(f"{where}: {error.object!r} is not UTF-8 text") from error


def _column(path: Path, name: str) -> np.ndarray:
    """One array from a file: the lines of a text file, the only array of a file, or the one called `name`."""
    require_file(path, f"file of {name}", "numpy.save")
    if path.suffix.lower() in (".txt", ".text", ""):
        return np.array(_lines(path), object)
    found = tables(path)
    chosen = found if len(found) == 1 else [table for table in found if _leaf(table) in (name, name.removesuffix("s"))]
    if len(chosen) != 1:
        listed = "; ".join(map(str, found)) or "nothing that could be read"
        raise UsageError(f"{path}: found {listed}; expected a single array, or one called {name}")
    return chosen[0].read()


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise SdcError(f"cannot read {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if lines[-1] == "":
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    if "" in lines:
        raise SdcError(f"{path}: line {lines.index('') + 1} is empty, expected one entry a line")
    return lines


def _splits(path: Path) -> dict[str, np.ndarray]:
    require_file(path, "file of splits", "numpy.savez")
    if path.suffix.lower() != ".npz":
        raise UsageError(f"{path} is no npz file, expected one with row numbers train, query and database")
    return {table.name: table.read() for table in tables(path)}


def _landmarks(found: Revisited, ids: Sequence[str]) -> Listing:
    """Rows that have these ids as the database and the queries of a ground truth."""
    names = {*found.images, *found.queries}
    stems = [PurePosixPath(name).stem for name in ids]
    try:
        if not names.isdisjoint(stems):
            return found.listing(stems)
        if len(ids) == len(names):
            return found.listing()
    except SdcError as error:
        raise SdcError(f"the ground truth does not fit the vectors: {error}") from error
    raise SdcError(
        f"the ground truth does not fit the vectors: found {len(ids)} rows, whose ids ({ids[0]}, ...) are none of "
        f"its images; expected {len(found.images)} images and then {len(found.queries)} queries in its order, or ids "
        "by their names"
    )


def _provenance(settings: ImportSettings, *, labelled: bool) -> dict[str, Any]:
    def stamp(path: Path | None) -> dict[str, Any] | None:
        if path is None:
            return None
        state = require_file(Path(path), "file", "numpy.save").stat()
        return {"name": Path(path).name, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}

    files = {name: stamp(getattr(settings, name)) for name in ("vectors", "labels", "ids", "splits")}
    if settings.labels_coarse is not None:  # only then, so that imports without them stay what they were
        files[COARSE] = stamp(settings.labels_coarse)
    if settings.groundtruth is not None:
        files["groundtruth"] = stamp(settings.groundtruth)
    seed = settings.seed if settings.splits is None and settings.groundtruth is None else None
    protocol = {"name": "category", "at": 1000} if labelled else None
    return {
        "source": "import",
        "backbone": None,
        "weights": None,
        "weights_sha256": None,
        "preprocessing": {},
        "dataset": Path(settings.vectors).stem,
        "protocol": protocol if settings.groundtruth is None else dict(revisited.PROTOCOL),
        "settings": {**files, "dtype": settings.dtype, "seed": seed},
        "version": __version__,
    }


class RowNumbers(Sequence[str]):
    """The ids "0", "1", ... of `n` rows, made as they are asked for."""

    def __init__(self, n: int) -> None:
        self._numbers = range(n)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        chosen = self._numbers[key]
        return str(chosen) if isinstance(chosen, int) else [str(number) for number in chosen]

    def __iter__(self) -> Iterator[str]:
        return map(str, self._numbers)
