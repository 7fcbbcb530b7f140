"""`sdc import`: existing vectors, with labels, ids and splits where there are any, become feats.h5.

Vectors are streamed from the source into the store: however large they are, only a few blocks are in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sdc._version import __version__
from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.extract.datasets import REVISITED_PROTOCOL, Revisited, read_groundtruth
from sdc.extract.labels import say_classes
from sdc.extract.parts import is_up_to_date
from sdc.extract.readers import Table, read_tables
from sdc.extract.store import Listing, default_splits, write_features
from sdc.extract.vector_files import (
    COARSE,
    LABELS,
    find_vectors,
    read_ids,
    read_labels,
    read_splits,
)
from sdc.files import require_file
from sdc.inputs import readable_twice
from sdc.progress import Progress
from sdc.settings import recorded

DTYPES = ("float16", "float32")
ALWAYS_RECORDED = ("labels", "ids", "splits")  # in the provenance; later options only where they are used
FILES = ("vectors", *ALWAYS_RECORDED, "labels_coarse", "groundtruth")


@dataclass(frozen=True)
class ImportSettings:
    """What `sdc import` takes.

    Attributes:
        vectors: npy, npz, parquet, safetensors, HDF5, fvecs, bvecs or what torch.save wrote; of several arrays the one
            named features, embeddings or vectors, else the only two-dimensional one of floats.
        labels: one a row: text (one a line), npy, or a column of parquet; whole numbers (-1 is no label), zeros and
            ones (N, C), in text with blanks or commas between them, or names, which become numbers in natural order.
            By default `labels` beside the vectors.
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


def import_features(settings: ImportSettings) -> Path:
    """Imports vectors into a feature store.

    Raises:
        UsageError: an unknown kind of file or dtype; no or several arrays that could be meant; coarse labels
            without labels; splits beside a ground truth; `out` exists with other settings.
        SdcError: a file is missing or damaged; labels, ids, splits or ground truth do not fit; values that are NaN or
            infinite.
    """
    with contextlib.ExitStack() as copies:
        beside = {name: getattr(settings, name) for name in FILES[1:]}
        files: dict[str, Any] = {
            name: copies.enter_context(readable_twice(Path(path))) for name, path in beside.items() if path
        }
        return _import_features(replace(settings, **files))


def _import_features(settings: ImportSettings) -> Path:
    out, source = Path(settings.out), require_file(Path(settings.vectors), "file of vectors", "numpy.save")
    if settings.dtype not in (None, *DTYPES):
        raise unknown_name_error("dtype", str(settings.dtype), DTYPES)
    if settings.seed < 0:
        raise UsageError(f"--seed is {settings.seed}, expected 0 or more")
    if settings.groundtruth is not None and settings.splits is not None:
        raise UsageError("--groundtruth makes the splits: leave out --splits")
    if out.exists() and out.samefile(source):
        raise UsageError(f"{out} is the file of vectors itself: choose another --out")
    truth = None if settings.groundtruth is None else read_groundtruth(Path(settings.groundtruth))
    tables = read_tables(source)
    vectors = find_vectors(source, tables)
    n, d = vectors.shape
    labels = read_labels(settings.labels, tables, LABELS, n)
    if settings.labels_coarse is not None and labels is None:
        raise UsageError("--labels-coarse is a level above labels, and there are none: give --labels as well")
    coarse = read_labels(settings.labels_coarse, tables, COARSE, n)
    provenance = _provenance(settings, labelled=labels is not None)
    if is_up_to_date(out, provenance, overwrite=settings.overwrite):
        return out
    ids = read_ids(settings.ids, tables, n)
    levels = {level: read for level, read in ((LABELS, labels), (COARSE, coarse)) if read is not None}
    known: dict[str, Any] = {level: read.values for level, read in levels.items()}
    known["classes"] = {level: read.names for level, read in levels.items()}
    if truth is not None:
        listing = replace(_landmark_listing(truth, ids), **known)
    else:
        splits = default_splits(n, settings.seed) if settings.splits is None else read_splits(settings.splits)
        listing = Listing(ids, splits, **known)
    say_classes(listing)
    dtype = settings.dtype or ("float16" if vectors.dtype == "float16" else "float32")
    log.info("import: %s of %s as %s", vectors, source, dtype)
    with Progress("import", n, "rows") as progress:
        return write_features(out, listing, provenance, d, dtype, _counted(vectors, progress))


def _counted(vectors: Table, progress: Progress) -> Iterator[np.ndarray]:
    for block in vectors.blocks():
        yield block
        progress.advance(len(block))


def _landmark_listing(truth: Revisited, ids: Sequence[str]) -> Listing:
    """The listing of vectors that are the database and the queries of a ground truth."""
    names = {*truth.images, *truth.queries}
    stems = [PurePosixPath(name).stem for name in ids]
    try:
        if not names.isdisjoint(stems):
            return truth.listing(stems)
        if len(ids) == len(names):
            return truth.listing()
    except SdcError as error:
        raise SdcError(f"the ground truth does not fit the vectors: {error}") from error
    raise SdcError(
        f"the ground truth does not fit the vectors: found {len(ids)} rows, whose ids ({ids[0]}, ...) are none of "
        f"its images; expected {len(truth.images)} images and then {len(truth.queries)} queries in its order, or ids "
        "by their names"
    )


def _provenance(settings: ImportSettings, *, labelled: bool) -> dict[str, Any]:
    def stamp(path: Path | None) -> dict[str, Any] | None:
        if path is None:
            return None
        state = require_file(Path(path), "file", "numpy.save").stat()
        return {"name": Path(path).name, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns}

    present = recorded(settings, always=ALWAYS_RECORDED)
    files = {name: stamp(getattr(settings, name)) for name in FILES if name in present}
    seed = settings.seed if settings.splits is None and settings.groundtruth is None else None
    protocol = {"name": "category", "at": 1000} if labelled else None
    return {
        "source": "import",
        "backbone": None,
        "weights": None,
        "weights_sha256": None,
        "preprocessing": {},
        "dataset": Path(settings.vectors).stem,
        "protocol": protocol if settings.groundtruth is None else dict(REVISITED_PROTOCOL),
        "settings": {**files, "dtype": settings.dtype, "seed": seed},
        "version": __version__,
    }
