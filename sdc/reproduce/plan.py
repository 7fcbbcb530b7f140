"""`sdc reproduce TABLE --dry-run`: what is there, what is left to do, and the disk and time that will take.

Times are predicted from rates measured on this machine: a batch of noise through the backbone, and a few steps of each
method's training, at the longest code. Not counted are decoding, methods and starts that are solved at once, encoding
and evaluation.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sdc.devices import cpu_count
from sdc.errors import SdcError, log
from sdc.extract import LONGEST, SCALES, ExtractSettings
from sdc.extract.backbones import load_backbone
from sdc.extract.datasets import about_dataset, load_dataset
from sdc.extract.parts import parts_folder
from sdc.extract.store import SPLITS, FeatureStore
from sdc.reproduce.job import Job, ReproduceSettings, Source, prepare
from sdc.reproduce.tables import R50_DELG, TABLES
from sdc.train import Recipe, TrainSettings
from sdc.train.methods import ClosedForm, load_method

DIMENSIONS = {R50_DELG: 2048}
BYTES = 2  # of a feature, which is stored as float16
BATCH, STEPS = 8, 3  # images and training steps that are timed
CHECKPOINT = 3  # times the size of a model: its weights, and Adam's two moments


def make_plan(settings: ReproduceSettings) -> dict[str, Any]:
    """What a run with these settings would do. Nothing is written.

    Returns:
        As JSON: `steps`, each with its `state` (there, given, part of it, to do, missing), sizes in bytes and predicted
        seconds; `missing`, what lacks on disk, in the words of the sets' own errors; `bytes` and `seconds` in total,
        and `free` bytes of the disk.

    Raises:
        UsageError: settings that a run would refuse.
        SdcError: features that are damaged.
    """
    job = prepare(settings)
    steps = [_extraction(job, source) for source in job.sources]
    grid = _grid(job, steps[0], steps[-1])
    missing = [step.pop("missing") for step in steps if "missing" in step]
    place = next(path for path in (job.folder.path.absolute(), *job.folder.path.absolute().parents) if path.exists())
    return {
        "table": settings.table,
        "about": job.table.about,
        "out": str(job.folder.path),
        "steps": [*steps, grid],
        "missing": missing,
        "bytes": sum(step["bytes"] for step in (*steps, grid)),
        "free": shutil.disk_usage(place).free,
        "seconds": sum(step["seconds"] for step in (*steps, grid)),
    }


def _extraction(job: Job, source: Source) -> dict[str, Any]:
    step: dict[str, Any] = {
        "step": "features",
        "data": source.data,
        "file": str(source.path),
        "bytes": 0,
        "seconds": 0.0,
    }
    if source.path.is_file():
        store = FeatureStore(source.path, verify=False)
        sizes = {name: len(store.splits[name]) for name in SPLITS}
        state = "there" if source.extraction else "given"
        return {**step, "state": state, "images": len(store), "splits": sizes, "dimension": store.dimension}
    settings = source.extraction
    step |= {"state": "to do", "splits": _nominal(source.data)}
    # Training images of the category sets are of the database; those of landmark sets are further ones.
    category = about_dataset(source.data).protocol["name"] == "category"
    split = [name for name in SPLITS if name != "train" or not category]
    step["images"] = sum(step["splits"][name] for name in split)
    if settings is None:
        dimension = DIMENSIONS.get(job.table.backbone, 0)
        missing = f"no features file at {source.path}: make one with `sdc import`, or name another file"
        return {**step, "state": "missing", "missing": missing, "dimension": dimension}
    try:
        with job.naming(source):
            listing = load_dataset(source.data, settings.root).listing
        step |= {"images": len(listing.ids), "splits": {name: len(listing.splits[name]) for name in SPLITS}}
    except SdcError as error:
        step |= {"state": "missing", "missing": str(error)}
    if settings.limit is not None and settings.limit < step["images"]:
        shares = {name: -(-count * settings.limit // step["images"]) for name, count in step["splits"].items()}
        step |= {"images": settings.limit, "splits": shares}
    rate, dimension = _images_per_second(source.data, settings)
    images, views = step["images"], settings.views
    done = len(list(parts_folder(source.path).glob("[0-9]*.safetensors"))) * settings.part_rows
    if done and step["state"] == "to do":
        step["state"] = f"part of it: {min(done, images)} of {images} images"
    return {
        **step,
        "backbone": settings.backbone,
        "views": views,
        "dimension": dimension,
        "bytes": images * dimension * BYTES * views,
        "images_per_second": rate,
        "seconds": max(images - done, 0) * views / rate,
    }


def _nominal(data: str) -> dict[str, int]:
    """The sizes of a set's splits, as the paper has them."""
    return dict(next(table.images for table in TABLES.values() if table.data == data))


def _images_per_second(data: str, settings: ExtractSettings) -> tuple[float, int]:
    """Images a second that the backbone takes, measured with random weights, and the dimension of its features."""
    from sdc.extract import Encoder

    longest = about_dataset(data).resize == "longest"
    size = settings.image_size or (LONGEST if longest else None)
    backbone = load_backbone(settings.backbone, "random:0", size, any_shape=longest)
    encoder, side = Encoder(backbone, settings.device), backbone.image_size
    rng = np.random.default_rng(0)
    if longest:  # one by one, at several scales; most photographs are 4 by 3
        lengths = [(int(side * scale * 3 / 4), int(side * scale)) for scale in settings.scales or SCALES]
        image = [rng.integers(256, size=(*shape, 3), dtype=np.uint8) for shape in lengths]
        return 1 / _seconds(lambda: encoder.over_scales(image)), backbone.dimension
    pixels = rng.integers(256, size=(BATCH, side, side, 3), dtype=np.uint8)
    encoder(pixels[:1])
    return BATCH / _seconds(lambda: encoder(pixels)), backbone.dimension


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return max(time.perf_counter() - start, 1e-9)


def _grid(job: Job, evaluated: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    total = job.settings.seeds * len(job.entries) * len(job.bits)
    jobs = min(job.settings.jobs or cpu_count(), total)
    remaining_by_method = dict.fromkeys(job.entries, job.settings.seeds * len(job.bits))
    if all(source.path.is_file() for source in job.sources):
        stores = {source.path: FeatureStore(source.path, verify=False) for source in job.sources}
        missing = [cell for cell in job.cells(stores) if not (job.folder.cells / f"{cell.name}.json").exists()]
        remaining_by_method = {name: sum(cell.values["method"] == name for cell in missing) for name in job.entries}
    bits, dimension = max(job.bits), trained["dimension"]
    coded = evaluated["splits"]["query"] + evaluated["splits"]["database"]
    seconds, largest, untimed = 0.0, 0, []
    for name, count in remaining_by_method.items():
        recipe = TrainSettings(bits=bits, **job.entries[name].settings).recipe().resolved(dimension)
        if not count:
            continue
        if isinstance(load_method(recipe.method), ClosedForm):
            untimed.append(name)
            continue
        hidden = recipe.hidden or dimension
        largest = max(largest, 4 * (hidden * (dimension + bits) if recipe.head == "mlp" else dimension * bits))
        batch = max(min(recipe.batch_size, trained["splits"]["train"]), 2)
        steps = recipe.epochs * (trained["splits"]["train"] // batch)
        seconds += count * steps * _step_seconds(replace(recipe, batch_size=batch), dimension, job.settings.device)
    remaining = sum(remaining_by_method.values())
    index = coded * bits // 8
    return {
        "step": "train, encode and evaluate",
        "state": "there" if not remaining else f"{total - remaining} of {total} cells are there",
        "cells": total,
        "left": remaining,
        "jobs": jobs,
        "index_bytes": index,
        "model_bytes": largest,
        "bytes": min(jobs, remaining) * (index + (1 + CHECKPOINT) * largest),
        "untimed": untimed,
        "seconds": seconds / jobs,
    }


def _step_seconds(recipe: Recipe, dimension: int, device: str | None) -> float:
    """Seconds of a training step in one thread, as a job has it: the difference between two short runs."""
    from sdc.train.loop import fit

    method = load_method(recipe.method)
    assert not isinstance(method, ClosedForm)
    # At least a few hundred rows: some methods look at a sample of them before the first step.
    features = np.random.default_rng(0).standard_normal((max(STEPS * recipe.batch_size, 512), dimension), np.float32)
    steps = len(features) // recipe.batch_size
    views = [features] * (method.views - 1)

    def short(epochs: int) -> float:
        # Without a start that is solved: with thousands of dimensions it takes minutes, which are no steps.
        shortened = replace(recipe, epochs=epochs, patience=0, decay_at=0, space="raw", locality=0.0, init="random")
        return _seconds(lambda: fit(features, np.arange(len(features)), shortened, views=views, device=device))

    with _quietly_in_one_thread():
        return max(short(2) - short(1), 1e-6) / steps


@contextlib.contextmanager
def _quietly_in_one_thread() -> Iterator[None]:
    import torch

    threads, level = torch.get_num_threads(), log.level
    torch.set_num_threads(1)
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        log.setLevel(level)


def plan_text(plan: Mapping[str, Any]) -> str:
    """The plan as text."""
    lines = [f"{plan['table']}: {plan['about']}, into {plan['out']}"]
    for step in plan["steps"]:
        if step["step"] == "features":
            lines.append(f"- features of {step['data']}, {step['file']}: {step['state']}")
            size = f"    {step['images']} images of {step['dimension']} dimensions"
            if "backbone" in step:
                size += f", {step['views']} view(s) by {step['backbone']}: {_size(step['bytes'])}, and as much again "
                size += (
                    f"while it is put together; predicted {_time(step['seconds'])} ({step['images_per_second']:.3g} "
                )
                size += "images/s measured)"
            lines.append(size)
        else:
            lines.append(f"- {step['step']}: {step['state']}, {step['left']} to compute, {step['jobs']} at once")
            lines.append(
                f"    for a while {_size(step['bytes'])}: each an index of {_size(step['index_bytes'])}, and a model "
                f"of up to {_size(step['model_bytes'])} with its checkpoint; predicted {_time(step['seconds'])}"
                + (f" without {', '.join(step['untimed'])}" if step["untimed"] else "")
            )
    lines += [f"missing: {one}" for one in plan["missing"]]
    lines.append(f"in all: {_size(plan['bytes'])} of {_size(plan['free'])} free, predicted {_time(plan['seconds'])}")
    return "\n".join(lines)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
