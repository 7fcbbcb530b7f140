"""`sdc reproduce`: a table of the paper, from images or features to our figures beside the published ones.

A thin layer: `sdc.extract` makes the features, a grid as of `sdc ablate` trains, encodes and evaluates a cell for
each method, code length and seed. All of it resumes: parts of an extraction and finished cells are kept.
"""

from __future__ import annotations

from pathlib import Path

from sdc.devices import cpu_count
from sdc.errors import SdcError, UsageError
from sdc.experiments import compute_all
from sdc.extract import extract_features
from sdc.extract.store import FeatureStore
from sdc.files import require_file
from sdc.reproduce import report
from sdc.reproduce.job import Job, ReproduceSettings, Source, prepare


def reproduce(settings: ReproduceSettings) -> Path:
    """Computes what is missing of a table, and writes it as results.csv, results.md and results.json.

    The jobs are processes that are spawned: a script that calls this does so under `if __name__ == "__main__"`.

    Returns:
        The folder.

    Raises:
        UsageError: an unknown table or method, features that are needed or do not fit together, or a folder made with
            other settings, holding something else, or being filled by another run.
        SdcError: the set or features are missing or damaged, the disk is full, or a job was killed.
    """
    job = prepare(settings)
    with job.folder.claimed():
        stores = {source.path: _store(job, source) for source in job.sources}
        evaluated, trained = stores[job.evaluated.path], stores[job.trained.path]
        if evaluated.dimension != trained.dimension:
            raise UsageError(
                f"{job.evaluated.path} has {evaluated.dimension} dimensions, {job.trained.path} {trained.dimension}: "
                "take features of one backbone"
            )
        cells = job.cells(stores)
        expected = {
            "table": settings.table,
            "features": evaluated.fingerprint,
            "trained_on": trained.fingerprint,
            "methods": list(job.entries),
            "bits": list(job.bits),
            "seeds": settings.seeds,
        }
        remaining = job.folder.remaining(cells, expected, overwrite=settings.overwrite)
        if remaining is not None:
            total = len({cell.name for cell in cells})
            compute_all(remaining, settings.jobs or cpu_count(), job.folder.cells, total, "reproduce")
            notes = report.departures(job.table, settings.limit, evaluated, trained)
            report.write(job.folder, settings.table, cells, notes)
    return job.folder.path


def _store(job: Job, source: Source) -> FeatureStore:
    """The features of a set, extracted if they are not there yet.

    Raises:
        SdcError: no such file, a damaged one, or one without rows in a split that is needed.
    """
    if source.extraction:
        with job.naming(source):
            extract_features(source.extraction)
    store = FeatureStore(require_file(source.path, "features file", "sdc import"))
    splits = (["query", "database"] if source is job.evaluated else []) + (["train"] if source is job.trained else [])
    for split in splits:
        if not len(store.splits[split]):
            raise SdcError(f"{source.path} has no rows in its {split} split: make features of {source.data} that have")
    return store
