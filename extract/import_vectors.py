"""`sdc import`: existing vectors, with labels, ids and splits where there are any, become feats.h5.

Vectors are streamed from the source into the store: however large they are, only a few blocks are in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sdc._version import __version__
from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.extract.code_files import look_like_codes
from sdc.extract.columns import NONE, OPTIONS, column_beside, find_vectors, say_taken
from sdc.extract.datasets import REVISITED_PROTOCOL, Revisited, read_groundtruth
from sdc.extract.labels import Labels, say_classes
from sdc.extract.parts import is_up_to_date
from sdc.extract.readers import Source, Table, open_source
from sdc.extract.store import NO_LABEL, Listing, default_splits, write_features
from sdc.extract.vector_files import (
    COARSE,
    IDS,
    LABELS,
    TEXTS,
    read_ids,
    read_labels,
    read_splits,
    read_texts,
)
from sdc.files import fingerprint
from sdc.inputs import readable_twice
from sdc.progress import Progress
from sdc.settings import recorded

DTYPES = ("float16", "float32")
ALWAYS_RECORDED = ("labels", "ids", "splits")  # in the provenance; later options only where they are used
FILES = (*ALWAYS_RECORDED, "labels_coarse", "groundtruth")
COLUMNS = ("column", "id_column", "label_column", "text_column")


@dataclass(frozen=True)
class ImportSettings:
    """What `sdc import` takes.

    Attributes:
        vectors: npy, npz, parquet, feather, arrow, safetensors, HDF5, fvecs, bvecs or what torch.save wrote; or many of
            these as one: a folder, a pattern such as `part-*.parquet`, or a sequence of paths. See `open_source`.
        column: the array that holds the vectors; by default the one named features, embeddings or vectors, else the
            only two-dimensional one of floats.
        id_column, label_column: the arrays with ids and labels, of `ids` and `labels` where these are given, else of
            `vectors`; by default those of the usual names (`USUAL_NAMES`). "none" takes none.
        text_column: the array of `vectors` with texts that searches show, in the same way; by default `text`.
        labels: one a row: text (one a line), npy, or a column of parquet; whole numbers (-1 is no label), zeros and
            ones (N, C), in text with blanks or commas between them, or names, which become numbers in natural order.
            By default `labels` beside the vectors.
        labels_coarse: a second level above `labels`, in the same forms. By default `labels_coarse` beside the vectors.
        ids: one a row: text (one a line) or npy. By default `ids` or `id` beside the vectors, else the row numbers.
        splits: npz with row numbers `train`, `query`, `database`. By default `store.default_splits`.
        groundtruth: gnd_roxford5k.pkl or one like it, which makes the splits as well. Where the ids are the names of
            its images (an ending or folders aside), rows go by these; else they must be its images, then its queries.
        dtype: float16 or float32; by default what the vectors have: float16 stays, all else becomes float32.
        seed: of the default splits.
        out: the feature store to write.
        overwrite: replace an `out` of other settings.
    """

    vectors: Path | Sequence[Path]
    labels: Path | None = None
    labels_coarse: Path | None = None
    ids: Path | None = None
    splits: Path | None = None
    column: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    text_column: str | None = None
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
    with opened_import(settings, find_vectors) as opened:
        out, vectors = Path(settings.out), opened.table
        if is_up_to_date(out, opened.provenance, overwrite=settings.overwrite):
            return out
        listing = opened.listing()
        dtype = settings.dtype or ("float16" if vectors.dtype == "float16" else "float32")
        if look_like_codes(vectors):
            log.warning(
                "%s look like packed codes of %d bits, but are taken for features of %d values: `sdc import --codes` "
                "makes an index of codes", vectors, 8 * vectors.shape[1], vectors.shape[1],
            )  # fmt: skip
        log.info("import: %s of %s as %s", vectors, opened.source.name, dtype)
        with Progress("import", vectors.shape[0], "rows") as progress:
            blocks = _counted(vectors, progress)
            return write_features(out, listing, opened.provenance, vectors.shape[1], dtype, blocks)


@dataclass(frozen=True)
class OpenedImport:
    """What is to be imported, before all of it is read.

    Attributes:
        source: the files.
        table: the vectors, or codes.
        provenance: where they come from.
        listing: reads ids, labels and splits.
    """

    source: Source
    table: Table
    provenance: dict[str, Any]
    listing: Callable[[], Listing]


@contextlib.contextmanager
def opened_import(settings: ImportSettings, find: Callable[[Source, str | None], Table]) -> Iterator[OpenedImport]:
    """Opens what is to be imported.

    Args:
        find: the array that is meant, among those of the files.

    Raises:
        As `import_features`.
    """
    with contextlib.ExitStack() as copies:
        given = {name: getattr(settings, name) for name in FILES}
        files: dict[str, Any] = {
            name: copies.enter_context(readable_twice(Path(path))) for name, path in given.items() if path
        }
        yield _open(replace(settings, **files), find)


def _open(settings: ImportSettings, find: Callable[[Source, str | None], Table]) -> OpenedImport:
    out = Path(settings.out)
    _check_request(settings)
    source = open_source(settings.vectors, "file of vectors", without=[out])
    if out.exists() and any(out.samefile(file) for file in source.files):
        raise UsageError(f"{out} is the file of vectors itself: choose another --out")
    truth = None if settings.groundtruth is None else read_groundtruth(Path(settings.groundtruth))
    vectors = find(source, settings.column)
    n = vectors.shape[0]
    beside = _columns_beside(settings, source, vectors)
    levels = _read_levels(settings, source, beside, n)

    def listing() -> Listing:
        with _advice(settings, beside):
            ids = read_ids(settings.ids, beside.get(IDS), n, settings.id_column)
        splits = default_splits(n, settings.seed) if settings.splits is None else read_splits(settings.splits)
        known: dict[str, Any] = {level: read.values for level, read in levels.items()}
        known["texts"] = None if TEXTS not in beside else read_texts(beside[TEXTS])
        known["classes"] = {level: read.names for level, read in levels.items()}
        with _advice(settings, beside):
            if truth is not None:
                listing = replace(_landmark_listing(truth, ids), **known)
            else:
                listing = Listing(ids, splits, **known)
        say_classes(listing)
        say_taken(source, {"vectors": vectors, **beside})
        return listing

    return OpenedImport(source, vectors, _provenance(settings, source, labelled=LABELS in levels), listing)


def _check_request(settings: ImportSettings) -> None:
    if settings.dtype not in (None, *DTYPES):
        raise unknown_name_error("dtype", str(settings.dtype), DTYPES)
    if settings.seed < 0:
        raise UsageError(f"--seed is {settings.seed}, expected 0 or more")
    if settings.groundtruth is not None and settings.splits is not None:
        raise UsageError("--groundtruth makes the splits: leave out --splits")


def _columns_beside(settings: ImportSettings, source: Source, vectors: Table) -> dict[str, Table]:
    """The columns beside the vectors that are used, by what for: not where the user gives a file of it."""
    columns = {IDS: settings.id_column, LABELS: settings.label_column, COARSE: None, TEXTS: settings.text_column}
    files = {IDS: settings.ids, LABELS: settings.labels, COARSE: settings.labels_coarse, TEXTS: None}
    tables = {
        role: column_beside(source, vectors, role, column) for role, column in columns.items() if files[role] is None
    }
    return {role: table for role, table in tables.items() if table is not None}


def _read_levels(settings: ImportSettings, source: Source, beside: Mapping[str, Table], n: int) -> dict[str, Labels]:
    """The labels and the coarse labels, as far as there are any."""
    levels = {}
    with _advice(settings, beside):
        for level, path, column in (
            (LABELS, settings.labels, settings.label_column),
            (COARSE, settings.labels_coarse, None),
        ):
            labels = read_labels(path, beside.get(level), source.tables, level, n, column)
            if labels is not None and labels.values.ndim == 1 and (labels.values == NO_LABEL).all():
                log.warning("%s: none of the %d rows has a label, so they are left out", level, n)
            elif labels is not None:
                levels[level] = labels
            elif level == LABELS and settings.labels_coarse is not None:
                raise UsageError("--labels-coarse is a level above labels, and there are none: give --labels as well")
    return levels


@contextlib.contextmanager
def _advice(settings: ImportSettings, beside: Mapping[str, Table]) -> Iterator[None]:
    """Says of columns that were taken by their usual names, and are not what these say, how they are left out."""
    try:
        yield
    except SdcError as error:
        starts = {IDS: ("id ", "ids:"), LABELS: ("labels:",)}
        for role, column in ((IDS, settings.id_column), (LABELS, settings.label_column)):
            if column is not None or role not in beside:
                continue
            if str(error).startswith(starts[role]) or f": column {beside[role].name} " in str(error):
                raise SdcError(f"{error}; {OPTIONS[role]} {NONE} leaves {beside[role].name} out") from error
        raise


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


def _provenance(settings: ImportSettings, source: Source, *, labelled: bool) -> dict[str, Any]:
    present = recorded(settings, always=ALWAYS_RECORDED)
    files = {name: _stamp(getattr(settings, name)) for name in FILES if name in present}
    columns = {name: present[name] for name in COLUMNS if name in present}
    seed = settings.seed if settings.splits is None and settings.groundtruth is None else None
    protocol = {"name": "category", "at": 1000} if labelled else None
    return {
        "source": "import",
        "backbone": None,
        "weights": None,
        "weights_sha256": None,
        "preprocessing": {},
        "dataset": source.files[0].stem if len(source.files) == 1 else source.files[0].absolute().parent.name,
        "protocol": protocol if settings.groundtruth is None else dict(REVISITED_PROTOCOL),
        "settings": {"vectors": _stamp(*source.files), **files, **columns, "dtype": settings.dtype, "seed": seed},
        "version": __version__,
    }


def _stamp(*paths: Path | None) -> dict[str, Any] | None:
    """What tells whether files are still the same: of several the names are hashed, bytes summed."""
    files = [Path(path) for path in paths if path is not None]
    files = [file for path in files for file in ([*sorted(path.iterdir())] if path.is_dir() else [path])]
    if not files:
        return None
    states = [file.stat() for file in files]
    stamp = {
        "name": files[0].name,
        "bytes": sum(state.st_size for state in states),
        "mtime_ns": max(state.st_mtime_ns for state in states),
    }
    if len(files) == 1:
        return stamp
    return {**stamp, "files": len(files), "names": fingerprint({"names": [file.name for file in files]})}
