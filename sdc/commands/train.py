"""The command train."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import click

from sdc.commands.options import DURATION, F, as_json, device, features, out, overwrite
from sdc.commands.printing import print_json
from sdc.devices import is_main_process
from sdc.settings import value_type
from sdc.train import Recipe, TrainSettings

TYPES = {"TIME": DURATION}  # of what `--help` calls so


def _setting(name: str) -> Callable[[F], F]:
    """The option of a field of `TrainSettings`: `--batch-size` for `batch_size`. None leaves it to the preset."""
    fields = {field.name: field for kind in (TrainSettings, Recipe) for field in dataclasses.fields(kind)}
    default, metadata = getattr(TrainSettings, name), fields[name].metadata
    flag, kind = f"--{name.replace('_', '-')}", value_type(TrainSettings, name)
    attributes: dict[str, Any] = {"default": default, "show_default": default is not None, "help": metadata["help"]}
    if kind is bool:
        if fields[name].default:  # the recipe's
            return click.option(f"{flag}/--no-{flag[2:]}", **attributes)
        return click.option(flag, is_flag=True, **attributes)
    return click.option(flag, type=TYPES.get(metadata["metavar"], kind), metavar=metadata["metavar"], **attributes)


def _settings(command: F) -> F:
    """All options that are declared by `sdc.settings.option`, in TrainSettings and in Recipe."""
    first, last = ("train_on", "imbalance", "method", "bits", "preset"), "seed"
    declared = [field.name for field in dataclasses.fields(TrainSettings) if field.metadata]
    between = [name for name in declared if name not in (*first, last)]
    for name in reversed([*first, *between, last]):
        command = _setting(name)(command)
    return command


@click.command()
@features(TrainSettings.features)
@_settings
@device
@click.option("--resume", is_flag=True, help="Continue an interrupted run from its checkpoint.")
@out(TrainSettings.out)
@overwrite
@as_json
def train(as_json: bool, **options: Any) -> None:
    """Train a hash head on the train or the database split.  Ctrl-C saves a checkpoint.

    Several processes: torchrun --nproc-per-node N -m sdc train ...
    """
    from sdc.train import Model, train_head

    started = time.monotonic()
    path = train_head(TrainSettings(**options))
    seconds = time.monotonic() - started
    if not is_main_process():
        return
    model = Model.load(path)
    training = model.metadata["training"]
    if as_json:
        print_json(
            {
                "model": str(path),
                "method": model.metadata["method"],
                "bits": model.bits,
                "seconds": round(seconds, 3),
                "loss": training["loss"],
                "epochs": training["epochs"],
                "fingerprint": model.fingerprint,
            }
        )
    else:
        loss = "" if training["loss"] is None else f", loss {training['loss']:.4f} after {training['epochs']} epochs"
        click.echo(f"{path}: {model.metadata['method']}, {model.bits} bits{loss}")
