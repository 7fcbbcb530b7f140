"""What the settings of `sdc reproduce` come to: sources of features, methods, lengths and the folder to fill."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sdc.errors import SdcError, UsageError, unknown_name_error
from sdc.experiments import Cell, GridFolder, cell_name
from sdc.extract import ExtractSettings
from sdc.extract.store import FeatureStore
from sdc.reproduce import report
from sdc.reproduce.tables import R50_DELG, Entry, Table, table_of
from sdc.train import TrainSettings

COMMAND = "sdc reproduce"
# Of the supplement, which scales GLDv2's images to 512 x 512; here they keep their shape.
EXTRACTION: dict[str, dict[str, Any]] = {"gldv2": {"image_size": 512, "scales": (1.0,)}}


@dataclass(frozen=True)
class ReproduceSettings:
    """What `sdc reproduce` does; the defaults are the command's.

    Attributes:
        table: one of `sdc.reproduce.tables.TABLES`.
        root: the folder of the table's set; see `sdc.extract.datasets.base.find_root` for the default.
        features: features of that set, instead of an extraction.
        train_root, train_features: the same of the set that heads are trained on, where that is another one.
        backbone: another one than the paper's.
        weights: the backbone's, as of `sdc extract`.
        bits: code lengths; by default the table's.
        methods: of the table's; by default all.
        seeds: every cell is computed with the seeds 0, 1, … of so many.
        limit: extract a sample of so many images of each set.
        jobs: cells computed at once, each by a process of one thread; None is one a processor.
        device: of the extraction and the training; by default CUDA where there is one.
        out: the folder to fill; by default `reproduce-TABLE`.
        overwrite: replace what was made with other settings; cells that belong to these are kept.
    """

    table: str
    root: Path | None = None
    features: Path | None = None
    train_root: Path | None = None
    train_features: Path | None = None
    backbone: str | None = None
    weights: str | None = None
    bits: tuple[int, ...] | None = None
    methods: tuple[str, ...] | None = None
    seeds: int = 1
    limit: int | None = None
    jobs: int | None = None
    device: str | None = None
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Source:
    """The features of a set: a file, and how it is made where it is not the user's own."""

    data: str
    path: Path
    extraction: ExtractSettings | None


@dataclass(frozen=True)
class Job:
    """The settings, checked against the table.

    Attributes:
        entries, bits: the methods and lengths that were chosen.
        evaluated, trained: the features that are encoded and evaluated, and those that heads are trained on; the
            same where the set has a train split.
    """

    settings: ReproduceSettings
    table: Table
    entries: Mapping[str, Entry]
    bits: tuple[int, ...]
    folder: GridFolder
    evaluated: Source
    trained: Source

    @property
    def sources(self) -> list[Source]:
        return [self.evaluated, *([self.trained] if self.trained is not self.evaluated else [])]

    @contextlib.contextmanager
    def naming(self, source: Source) -> Iterator[None]:
        """Puts --train-root for --root into errors about the set that heads are trained on."""
        try:
            yield
        except SdcError as error:
            if source is self.evaluated or "--root" not in str(error):
                raise
            raise type(error)(str(error).replace("--root", "--train-root")) from error

    def cells(self, stores: Mapping[Path, FeatureStore]) -> list[Cell]:
        """A cell for each seed, method and length.

        Raises:
            UsageError: a length that is none.
        """
        evaluated, trained = stores[self.evaluated.path], stores[self.trained.path]
        other = self.evaluated is not self.trained
        further = {"encoded": evaluated.fingerprint} if other else {}
        cells = []
        for seed, (name, entry), bits in product(range(self.settings.seeds), self.entries.items(), self.bits):
            settings = TrainSettings(
                features=self.trained.path, bits=bits, seed=seed, device=self.settings.device, **entry.settings
            )
            called = cell_name(settings, trained.fingerprint, diagnosed=False, **further)
            place = self.evaluated.path if other else None
            cells.append(Cell(self.trained.path, {"method": name}, settings, called, place, diagnosed=False))
        return cells


def prepare(settings: ReproduceSettings) -> Job:
    """Checks the settings against the table, before anything is made.

    Raises:
        UsageError: as `run`.
    """
    table = table_of(settings.table)
    entries = dict(table.entries)
    if settings.methods is not None:
        for name in settings.methods:
            if name not in entries:
                raise unknown_name_error(f"method of the table {settings.table}", name, entries)
        entries = {name: entries[name] for name in settings.methods}
    bits = settings.bits or table.bits
    for option, number in (("seeds", settings.seeds), ("jobs", settings.jobs), ("limit", settings.limit)):
        if number is not None and number < 1:
            raise UsageError(f"--{option} {number}: must be at least 1")
    if len({*bits}) < len(bits):
        raise UsageError(f"--bits {','.join(map(str, bits))}: expected lengths that differ, such as 16,32,64")
    for length, entry in product(bits, entries.values()):
        TrainSettings(bits=length, **entry.settings).recipe()
    out = settings.out or Path(f"reproduce-{settings.table}")
    evaluated = _source(settings, table, table.data, out, settings.root, settings.features)
    trained = evaluated
    if table.trained_on:
        trained = _source(settings, table, table.trained_on, out, settings.train_root, settings.train_features)
    elif settings.train_root or settings.train_features:
        raise UsageError(f"{settings.table} trains on {table.data} itself: leave out --train-root and --train-features")
    if not (evaluated.extraction or trained.extraction):
        for option in ("limit", "backbone", "weights"):
            if getattr(settings, option) is not None:
                raise UsageError(f"--{option} is of an extraction: leave it out where all features are given")
    files = [source.path.name for source in (evaluated, trained) if source.extraction]
    sources = (*files, *(f"{name}.parts" for name in files))
    folder = GridFolder(out, COMMAND, (report.JSON,), sources)
    return Job(settings, table, entries, bits, folder, evaluated, trained)


def _source(
    settings: ReproduceSettings, table: Table, data: str, out: Path, root: Path | None, features: Path | None
) -> Source:
    if features is not None:
        if root is not None:
            raise UsageError(f"a folder of images and features of {data} are both named: leave out one of them")
        return Source(data, features, None)
    backbone = settings.backbone or table.backbone
    if backbone == R50_DELG:
        option = "--features" if data == table.data else "--train-features"
        raise UsageError(
            f"{settings.table} is made of R50-DELG-GLDv2-clean features of {data}, which sdc cannot extract: import "
            f"them (`sdc import`) and name them with {option}, or name another --backbone, such as resnet50"
        )
    path = out / f"{data}-{Path(backbone).name}.h5"
    extraction = ExtractSettings(
        backbone=backbone, data=data, root=root, weights=settings.weights, limit=settings.limit, views=table.views,
        device=settings.device, out=path, overwrite=settings.overwrite, **EXTRACTION.get(data, {}),
    )  # fmt: skip
    return Source(data, path, extraction)
