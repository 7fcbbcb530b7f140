"""`sdc ablate`: a grid of settings of `sdc train`, each cell trained, encoded, evaluated and diagnosed.

The folder it fills: cells/ (a file for each finished cell: what `sdc evaluate` and `sdc diagnose` say, and the
similarity histograms beside it), results.csv (a row a cell), results.md (mean ± sd over seeds), settings.json, and
figures. A finished cell is kept and not computed again: a run that is killed loses the cells under way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdc._version import __version__
from sdc.ablate.figures import AGAINST_OVERLAP, MOST, OVER_BITS, SENSITIVITY, read_histograms, write_figures
from sdc.devices import cpu_count
from sdc.errors import SdcError, UsageError, log
from sdc.experiments import (
    CSV,
    TABLE,
    Cell,
    GridFolder,
    Row,
    Value,
    compute_all,
    describe,
    grouped,
    make_cells,
    make_rows,
    markdown,
    parse_fixed,
    parse_over,
    write_csv,
)
from sdc.extract.store import SPLITS, FeatureStore
from sdc.files import atomic_write, require_file
from sdc.retrieve.diagnose import Histogram, write_histograms
from sdc.train import Recipe, TrainSettings

STRETCHING = "histograms.png"  # the paper's figure of the similarities before and after
FIGURES = (STRETCHING, SENSITIVITY, OVER_BITS, AGAINST_OVERLAP)


@dataclass(frozen=True)
class AblateSettings:
    """What `sdc ablate` does; the defaults are the command's.

    Attributes:
        features: feature files; the grid is run on each.
        over: the settings to vary, each `NAME` or `NAME=value,…`; several make a product. Names are those of
            `sdc.experiments.grid.OVER`, which have default values, and of `sdc.train.TrainSettings`. `alpha` alone
            stands for beta:a,a, `alpha` and `beta` for beta:a,b; `beta` alone keeps the calibration's alpha.
        bits: lengths of a code.
        seeds: every cell is computed with the seeds 0, 1, … of so many.
        preset, method, epochs: of `sdc train`, where they are not varied.
        fixed: further settings of `sdc train`, each `name=value`.
        jobs: cells computed at once, each by a process of one thread; None is one a processor.
        out: the folder to fill.
        overwrite: replace an `out` that was made with other settings; cells that belong to these are kept.
    """

    features: tuple[Path, ...] = (Path("feats.h5"),)
    over: tuple[str, ...] = ()
    bits: tuple[int, ...] = (64,)
    seeds: int = 3
    preset: str = TrainSettings.preset
    method: str = Recipe.method
    epochs: int | None = None
    fixed: tuple[str, ...] = ()
    jobs: int | None = None
    out: Path = Path("ablation")
    overwrite: bool = False


def ablate(settings: AblateSettings) -> Path:
    """Computes the cells of the grid that are not there yet, then writes tables and figures.

    Settings that training refuses or fails with leave a cell without scores, and the reason in its place. The jobs are
    processes that are spawned: a script that calls this does so under `if __name__ == "__main__"`.

    Returns:
        The folder.

    Raises:
        UsageError: an unknown setting or a bad value, a folder made with other settings, holding something else, or
            being filled by another run.
        SdcError: features are missing or damaged or have no queries, the disk is full, or a job was killed.
    """
    _check(settings)
    over, fixed = parse_over(settings.over), _fixed(settings)
    stores = _stores(
        settings, {str(fixed.get("train_on", TrainSettings.train_on)), *map(str, over.get("train_on", []))}
    )
    cells = make_cells(stores, over, fixed, settings.bits, settings.seeds)
    expected = {
        "features": [store.fingerprint for store in stores.values()],
        "over": over,
        "bits": list(settings.bits),
        "seeds": settings.seeds,
        "train": fixed,
    }
    folder = GridFolder(settings.out, "sdc ablate", FIGURES)
    with folder.claimed():
        remaining = folder.remaining(cells, expected, overwrite=settings.overwrite)
        if remaining is not None:
            total = len({cell.name for cell in cells})
            compute_all(remaining, settings.jobs or cpu_count(), folder.cells, total, "ablate")
            _write(folder, cells, list(over), expected)
    return settings.out


def _check(settings: AblateSettings) -> None:
    if settings.seeds < 1:
        raise UsageError(f"--seeds {settings.seeds}: must be at least 1")
    if settings.jobs is not None and settings.jobs < 1:
        raise UsageError(f"--jobs {settings.jobs}: must be at least 1")
    if not settings.bits or len(set(settings.bits)) < len(settings.bits):
        raise UsageError(f"--bits {','.join(map(str, settings.bits))}: expected lengths that differ, such as 16,32,64")


def _fixed(settings: AblateSettings) -> dict[str, Value]:
    """The settings of `sdc train` that are not varied: `preset` and `method` give way to --over, others do not."""
    varied = [text.partition("=")[0] for text in settings.over]
    defaults: dict[str, Value] = {"preset": settings.preset, "method": settings.method}
    epochs = [] if settings.epochs is None else [f"epochs={settings.epochs}"]
    further = parse_fixed([*epochs, *settings.fixed])
    return {name: value for name, value in defaults.items() if name not in varied} | further


def _stores(settings: AblateSettings, trained_on: set[str]) -> dict[Path, FeatureStore]:
    stores: dict[Path, FeatureStore] = {}
    for path in settings.features:
        store = FeatureStore(require_file(path, "features file", "sdc extract"))
        if store.fingerprint in {other.fingerprint for other in stores.values()}:
            raise UsageError(f"--features {path}: the same features are given twice")
        for split in sorted({"query", "database", *trained_on} & {*SPLITS}):
            if not len(store.splits[split]):
                raise SdcError(f"{path} has no rows in its {split} split: make features that have (see `sdc import`)")
        stores[path] = store
    return stores


def _write(folder: GridFolder, cells: Sequence[Cell], varied: Sequence[str], expected: Mapping[str, Any]) -> None:
    """The tables and figures of finished cells."""
    out, rows = folder.path, make_rows(cells, folder.read_cells(cells))
    panels = _panels(folder.cells, cells, rows, varied)
    if panels:
        write_histograms(out / STRETCHING, panels)
    write_figures(out, rows, varied)
    write_csv(out / CSV, rows)
    fixed = ", ".join(f"{name} {value}" for name, value in expected["train"].items())
    title = f"Ablation over {', '.join(varied)}" if varied else "Ablation"
    notes = f"{fixed}; {expected['seeds']} seed(s) a cell, mean ± sd; scores expected over ties; sdc {__version__}"
    with atomic_write(out / TABLE) as temporary:
        temporary.write_text(markdown(rows, varied, title, notes), encoding="utf-8")
    refused = sum(row["refused"] is not None for row in rows)
    log.info("%s: %d cells%s", out, len(rows), f", {refused} of them without scores" if refused else "")


def _panels(folder: Path, cells: Sequence[Cell], rows: Sequence[Row], varied: Sequence[str]) -> dict[str, Histogram]:
    """Before and after: the features' cosines, and for each combination the similarities of its longest codes.

    Of more than `MOST` combinations only those of the least and of the greatest overlap.
    """
    names = {id(row): cell.name for row, cell in zip(rows, cells, strict=True)}
    sets = grouped([row for row in rows if row["refused"] is None], ["features"])
    panels: dict[str, Histogram] = {}
    for (features,), set_rows in sets.items():
        shown = [max(group, key=lambda row: int(row["bits"])) for group in grouped(set_rows, varied).values()]
        if len(shown) > MOST:
            shown.sort(key=lambda row: float(row["overlap"] or 0))
            shown = [shown[0], shown[-1]]
        prefix = f"{features}: " if len(sets) > 1 else ""
        for row in shown:
            before, after = read_histograms(folder / f"{names[id(row)]}.csv").values()
            panels[f"{prefix}features"] = before
            panels[prefix + describe({name: row[name] for name in varied}, row["bits"])] = after
    return panels
