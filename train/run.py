"""The stage `train`: feats.h5 -> model.safetensors."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc._version import __version__
from sdc.devices import is_main_process
from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.files import check_same_settings, linked_file, require_file, writable
from sdc.settings import defaults, either, essential, fields_of, option, recorded
from sdc.train.goals import GOALS, Goal, choose_goal
from sdc.train.long_tail import class_groups, long_tail
from sdc.train.loss_alarms import training_alarms
from sdc.train.presets import PRESETS, RUNS_OWN, make_recipe
from sdc.train.recipe import Recipe

if TYPE_CHECKING:
    from sdc.extract.store import FeatureStore
    from sdc.train.loop import World

TRAIN_ON = ("train", "database")


# Settings that are no part of what a model is: where things lie, and what they are called.
NOT_RECORDED = frozenset({"features", "goal", "preset", "device", "resume", "out", "overwrite"})


@dataclass(frozen=True)
@fields_of(Recipe, required=RUNS_OWN)
class TrainSettings:
    """Settings of `sdc train`: these, and the fields of `Recipe`; of those that are None the preset decides.

    Attributes:
        train_on: the split whose rows are trained on: `train`, or `database` (no labels are needed), of which rows that
            are queries too are left out.
        imbalance: above 1, the classes are subsampled to a long tail: the size of the largest over the smallest.
        goal: one of `sdc.train.GOALS`: what the codes are for, in place of a method or a preset; None, where these are
            not given either, goes by whether the features have labels.
        preset: one of `sdc.train.PRESETS`.
    """

    features: Path = Path("feats.h5")
    train_on: str | None = option(
        None,
        "The split to train on: train, or database (but its queries).  "
        "[default: database for --goal neighbors, else train]",
    )
    imbalance: float = option(
        1,
        "Subsample the classes to a long tail: the largest has RATIO times the rows of the smallest.",
        metavar="RATIO",
    )
    goal: str | None = option(
        None,
        "neighbors: keep each item's nearest neighbours; kinds: tell kinds of items apart.  "
        "[default: kinds where the features have labels; not with --method or --preset]",
    )
    preset: str = option("default", f"{either(PRESETS)}; the options below change parts of it.")
    device: str | None = None
    resume: bool = False
    out: Path = Path("model.safetensors")
    overwrite: bool = False

    if TYPE_CHECKING:  # the fields of Recipe, which type checkers do not see

        def __init__(self, features: Path = ..., **settings: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    def recipe(self) -> Recipe:
        """The preset with the given fields in place. Raises UsageError for a value that does not fit."""
        names = {field.name for field in fields(Recipe)}
        return make_recipe(self.preset, **{name: value for name, value in vars(self).items() if name in names})

    def record(self, always: Collection[str] = ("train_on",)) -> dict[str, Any]:
        """What files record of the settings beside the recipe; in any case those named in `always`."""
        skipped = NOT_RECORDED.union(field.name for field in fields(Recipe))
        return {name: value for name, value in recorded(self, always).items() if name not in skipped}


def run(settings: TrainSettings) -> Path:
    """Trains a head on the train split and writes it, alone or as one of the processes that torchrun started.

    Raises:
        SdcError: the features are missing, damaged or too few, or training diverged.
        UsageError: a setting or the features do not fit, or the output exists with other settings.
        Interrupted: stopped by a signal; the checkpoint is saved.
    """
    from sdc.extract.store import FeatureStore
    from sdc.train.model import Model

    start = time.monotonic()
    if not is_main_process():
        log.setLevel(logging.WARNING)
    if settings.train_on not in (None, *TRAIN_ON):
        raise unknown_name_error("split to train on", str(settings.train_on), TRAIN_ON)
    store = FeatureStore(require_file(settings.features, "features file", "sdc extract"))
    settings, goal = _with_goal(settings, store)
    recipe = settings.recipe()
    record = {**recipe.record(), "features": store.fingerprint, **settings.record()}
    if settings.out.exists() and not settings.overwrite:
        try:
            existing = Model.load(settings.out).metadata["settings"]
        except SdcError as error:
            raise SdcError(f"{error}; --overwrite replaces it") from None
        default = defaults(settings, recipe)
        check_same_settings(settings.out, essential(existing, default, always=record), record)
        return settings.out
    writable(settings.out, settings.features)
    rows = training_rows(settings, store)

    # These import torch, which a run that is refused or has nothing to do need not wait for.
    from sdc.train.loop import joined
    from sdc.train.methods import ClosedForm, load_method

    if isinstance(load_method(recipe.method), ClosedForm):
        # Solved by one process; the others have nothing to wait for.
        if not is_main_process():
            return settings.out
        return _train(settings, goal, recipe, store, rows, record, start, None)
    with joined(settings.device) as world:
        return _train(settings, goal, recipe, store, rows, record, start, world)


def _with_goal(settings: TrainSettings, store: FeatureStore) -> tuple[TrainSettings, Goal | None]:
    """The settings with what the goal stands for, and with the split to train on; and the goal, if one counts."""
    labelled = store.labels is not None or bool(store.groundtruth)
    given = [field.name for field in fields(Recipe) if getattr(settings, field.name) is not None]
    goal = choose_goal(settings.goal, settings.method, settings.preset, given, labelled=labelled)
    fields_of_goal: dict[str, Any] = {}
    if goal is not None:
        log.info("%s", goal)
        fields_of_goal = {name: value for name, value in GOALS[goal.name].items() if getattr(settings, name) is None}
    split = settings.train_on or ("database" if goal is not None and goal.name == "neighbors" else "train")
    return replace(settings, **fields_of_goal, train_on=split), goal


def training_rows(settings: TrainSettings, store: FeatureStore) -> np.ndarray:
    """(n,) the rows to train on, ascending.

    Raises:
        UsageError: `imbalance` without one label a row, or one that the classes do not allow.
    """
    rows = store.splits[settings.train_on or "train"]
    if settings.train_on == "database":
        rows = np.setdiff1d(rows, store.splits["query"], assume_unique=True)
    if settings.imbalance == 1:
        return rows
    if store.labels is None or store.labels.ndim != 1:
        found = "none" if store.labels is None else f"several ({store.labels.shape[1]} classes, zeros and ones)"
        raise UsageError(f"--imbalance needs one label a row, {settings.features} has {found}")
    subset = long_tail(rows, store.labels[rows], settings.imbalance, settings.seed)
    log.info("imbalance %g: %d of %d training rows are kept", settings.imbalance, len(subset), len(rows))
    return subset


def _train(
    settings: TrainSettings, goal: Goal | None, recipe: Recipe, store: FeatureStore, rows: np.ndarray, record:
    dict[str, Any], start: float, world: World | None,
) -> Path:  # fmt: skip
    from sdc.train.fit_tables import fit_code_tables
    from sdc.train.loop import Checkpoint, fit, interruptible
    from sdc.train.model import Model

    log.info(
        "training %s, %d bits, on %d × %d features of %s",
        recipe.method, recipe.bits, len(rows), store.dimension, settings.features,
    )  # fmt: skip
    checkpoint = Checkpoint(settings.out, record, defaults(settings, recipe))
    tensors, summary = fit(
        store.features, rows, recipe,
        views=store.views, extras={"tokens": store.tokens, "labels": store.labels}, device=settings.device,
        checkpoint=checkpoint, resume=settings.resume,
        world=world, start=start,
    )  # fmt: skip
    if world is not None and world.rank > 0:
        return settings.out
    # Relative to the model's folder, so that the same run gives the same file wherever it takes place.
    path = os.path.relpath(store.path, linked_file(Path(settings.out)).absolute().parent)
    groups = class_groups(store.labels[rows]) if store.labels is not None and settings.imbalance != 1 else None
    described = model_metadata(
        recipe, record, path, store.fingerprint, store.provenance, summary, preset=settings.preset, goal=goal,
        groups=groups,
    )  # fmt: skip
    head = Model(tensors, described)
    goes_on = f"; continue with --resume ({checkpoint.path})" if world is not None and checkpoint.path.exists() else ""
    with interruptible(f"stopped while byte tables were fitted{goes_on}"):
        tables = fit_code_tables(head.outputs, store.features, rows, recipe)
    Model(tensors, described, tables).save(settings.out)
    checkpoint.remove()
    for alarm in training_alarms(summary["curve"], solved=recipe.init == "itq" and recipe.head == "linear"):
        log.warning("%s", alarm)
    log.info("%s: trained in %.1f s", settings.out, time.monotonic() - start)
    return settings.out


def model_metadata(
    recipe: Recipe, settings: dict[str, Any], path: str | None, fingerprint: str, provenance: dict[str, Any],
    summary: dict[str, Any], *, preset: str, goal: Goal | None = None, groups: dict[str, list[int]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What model.safetensors records beside its tensors; `groups` as `sdc.train.long_tail.class_groups` gives them.

    The preset's name is no setting: what it stands for is, and the same settings come from another or from options.
    """
    return {
        "method": recipe.method,
        "preset": preset,
        **({"goal": goal.name} if goal is not None else {}),
        "settings": settings,
        "training": summary,
        "features": {
            "path": path,
            "fingerprint": fingerprint,
            "provenance": provenance,
        },
        **({"groups": groups} if groups else {}),
        "version": __version__,
    }
