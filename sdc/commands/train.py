"""The command train."""

from __future__ import annotations

import time
from typing import Any

import click

from sdc.commands.options import DURATION, as_json, device, features, out, overwrite
from sdc.commands.printing import print_json
from sdc.devices import is_main_process
from sdc.train.methods import METHODS
from sdc.train.run import TrainSettings


@click.command()
@features(TrainSettings.features)
@click.option(
    "--train-on",
    default=TrainSettings.train_on,
    show_default=True,
    help="The split to train on: train, or database (but its queries).",
)
@click.option(
    "--imbalance",
    type=float,
    metavar="RATIO",
    default=TrainSettings.imbalance,
    show_default=True,
    help="Subsample the classes to a long tail: the largest has RATIO times the rows of the smallest.",
)
@click.option("--method", default=TrainSettings.method, show_default=True, help=f"{', '.join(METHODS)}.")
@click.option("--bits", type=int, default=TrainSettings.bits, show_default=True, help="Length of a code.")
@click.option(
    "--preset",
    default=TrainSettings.preset,
    show_default=True,
    help="default, paper-category, paper-instance or paper-code; the options below change parts of it.",
)
@click.option(
    "--calibration",
    help="Distribution of the code similarities: beta:5,5, gaussian:0.3, binomial, linear, empirical:FILE, ...",
)
@click.option("--pairs", help="rows, halves or all.")
@click.option("--loss", help="l1, l2 or one-sided.")
@click.option("--quantization", help="cosine, l1, l2 or cubic.")
@click.option("--quantization-weight", type=float, help="λ_q.")
@click.option("--contrastive-weight", type=float, help="λ_cl of sdc-contrastive.")
@click.option(
    "--supervised", is_flag=True, default=None, help="With labels: rank pairs that share one above the others."
)
@click.option("--space", help="principal: centred, on the principal axes; or raw.")
@click.option("--locality", type=float, help="0: rank pairs by the features; 1: by what tells neighbourhoods apart.")
@click.option("--head", help="linear or mlp.")
@click.option("--hidden", type=int, help="Width of the mlp's hidden layer; 0 takes the features'.")
@click.option("--norm/--no-norm", default=None, help="A batch norm at the end of the head.")
@click.option("--init", help="Start of a linear head: itq or random.")
@click.option("--epochs", type=int, help="At most.")
@click.option("--budget", type=DURATION, metavar="TIME", help="Train the best head for so long, e.g. 30s or 5m.")
@click.option("--patience", type=int, help="Checks on held-out rows without gain before the rate is cut; 0: never.")
@click.option("--batch-size", type=int)
@click.option("--lr", type=float, help="Adam's learning rate.")
@click.option("--decay-at", type=int, help="Divide the learning rate by 10 from this epoch on; 0 for never.")
@click.option("--weight-decay", type=float)
@click.option("--seed", type=int, default=TrainSettings.seed, show_default=True)
@device
@click.option("--resume", is_flag=True, help="Continue an interrupted run from its checkpoint.")
@out(TrainSettings.out)
@overwrite
@as_json
def train(as_json: bool, **options: Any) -> None:
    """Train a hash head on the train split.  Ctrl-C saves a checkpoint.

    Several processes: torchrun --nproc-per-node N -m sdc train ...
    """
    from sdc.train.model import Model
    from sdc.train.run import run

    started = time.monotonic()
    path = run(TrainSettings(**options))
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
