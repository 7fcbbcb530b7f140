"""The command `sdc`: parses, calls a stage, prints. Defaults come from the stages' settings."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from sdc import __version__
from sdc.ablate.grid import OVER
from sdc.ablate.run import AblateSettings
from sdc.artifacts import SdcError, log
from sdc.extract.embeddings import ImportSettings
from sdc.extract.images import LONGEST, SCALES
from sdc.extract.run import ExtractSettings
from sdc.retrieve.collapse import DiagnoseSettings
from sdc.retrieve.encode import EncodeSettings
from sdc.retrieve.evaluate import EvaluateSettings
from sdc.retrieve.search import SearchSettings
from sdc.train.export import ExportSettings
from sdc.train.methods import METHODS
from sdc.train.run import TrainSettings

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path, readable=False)  # what cannot be read is the stages' to say
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that was made with other settings.")


def out(default: Path) -> Callable[[F], F]:
    return click.option("--out", type=PATH, default=default, show_default=True, help="File to write.")


def features(default: Path = TrainSettings.features) -> Callable[[F], F]:
    return click.option("--features", type=PATH, default=default, show_default=True, help="Feature file to read.")


def _scales(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """0.7071,1,1.4142"""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected factors, such as 0.7071,1,1.4142") from None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sdc")
def cli() -> None:
    """Turn embeddings into compact binary codes and search them.

    \b
    images ─ extract ─▶ feats.h5 ─ train ─▶ model.safetensors
    vectors ─ import ─┘    └─────── encode ◀──────┘
                                      └─▶ db.bin ─ search, evaluate

    Each command reads what the one before it wrote, by these names unless told otherwise.
    """


@cli.command()
@click.option(
    "--backbone",
    default=ExtractSettings.backbone,
    show_default=True,
    help="vgg16, resnet50, deit_base, vit_base, efficientnet_lite0, or any timm model.",
)
@click.option(
    "--data",
    default=ExtractSettings.data,
    show_default=True,
    help="A set that `sdc datasets` lists; folder: any folder of images, a subfolder a label.",
)
@click.option("--root", type=PATH, help="Where the data lies.  [default: $SDC_DATA/NAME]")
@click.option("--weights", metavar="FILE|random:SEED", help="The backbone's weights instead of its pretrained ones.")
@click.option(
    "--image-size",
    type=int,
    help="Side of the square input, in pixels.  [default: the backbone's]  Landmark sets: the longest side at most.  "
    f"[default: {LONGEST}]",
)
@click.option(
    "--scales",
    callback=_scales,
    metavar="S,S,...",
    help=f"Landmark sets: average over these scales.  [default: {','.join(f'{scale:g}' for scale in SCALES)}]",
)
@click.option("--limit", type=int, help="Take a stratified sample of so many images.")
@click.option(
    "--views",
    type=int,
    default=ExtractSettings.views,
    show_default=True,
    help="Views of each image: 2 adds an augmented one, for methods that learn from two.",
)
@click.option("--tokens", is_flag=True, help="Keep the patch tokens as well; vision transformers have them.")
@click.option(
    "--split",
    metavar="RATIO|FILE",
    help="folder: the share of images held out as queries, or a file of `path split` lines; cifar10: an npz.",
)
@click.option("--strip-prefix", metavar="FOLDERS", help="List files: leading folders that come off their paths.")
@click.option("--add-prefix", metavar="FOLDER", help="List files: a folder that goes in front of their paths.")
@click.option("--batch-size", type=int, default=ExtractSettings.batch_size, show_default=True)
@click.option(
    "--part-rows",
    type=int,
    default=ExtractSettings.part_rows,
    show_default=True,
    help="Images a part: what a killed run repeats at most.",
)
@click.option("--workers", type=int, help="Decoding threads.  [default: one a processor]")
@click.option("--device", help="cpu or cuda.  [default: cuda where there is one]")
@click.option("--seed", type=int, default=ExtractSettings.seed, show_default=True)
@out(ExtractSettings.out)
@overwrite
@as_json
def extract(as_json: bool, **options: Any) -> None:
    """Dump a backbone's features of a set of images.

    Killed or interrupted, the same command resumes where it stopped.
    """
    from sdc.extract.run import run

    _report(run(ExtractSettings(**options)), as_json)


@cli.command("datasets")
@as_json
def datasets_(as_json: bool) -> None:
    """List the sets of images: what must be on disk, where to get it, splits, labels and protocol.

    \b
    With SDC_DATA=/data, the set NAME is sought in /data/NAME where --root names no folder.
    """
    from sdc.extract.datasets import catalogue

    found = catalogue()
    if as_json:
        _print_json(found)
        return
    for entry in found["datasets"]:
        needs: dict[str, list[str]] = {}
        for piece in entry["needs"]:
            needs.setdefault(piece["from"], []).append(piece["path"])
        at = entry["protocol"].get("at")
        lines = [
            *(f"needs {', '.join(paths)}, from {source}" for source, paths in needs.items()),
            f"splits: {entry['splits']}",
            f"labels: {entry['labels']}",
            f"protocol: {entry['protocol']['name']}, {f'mAP@{at}' if at else 'mAP over all'}",
        ]
        click.echo(f"{entry['name']}: {entry['summary']}")
        for line in lines:
            click.echo(f"    {line}")


@cli.command("import")
@click.argument("vectors", type=PATH)
@click.option("--labels", type=PATH, help="npy, or text with a label a line.")
@click.option("--labels-coarse", type=PATH, help="A second level above the labels, in the same forms.")
@click.option("--ids", type=PATH, help="npy, or text with an id a line.  [default: row numbers]")
@click.option("--splits", type=PATH, help="npz with the row numbers of train, query and database.")
@click.option("--groundtruth", type=PATH, help="gnd_roxford5k.pkl or gnd_rparis6k.pkl, for their features.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Stored precision.  [default: as it is]")
@click.option("--seed", type=int, default=ImportSettings.seed, show_default=True)
@out(ImportSettings.out)
@overwrite
@as_json
def import_(as_json: bool, **options: Any) -> None:
    """Take in existing vectors: npy, npz, parquet, safetensors, hdf5, fvecs, bvecs, or .pt and .pth of torch.save."""
    from sdc.extract.embeddings import run

    _report(run(ImportSettings(**options)), as_json)


def _seconds(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """30s, 5m, 1.5h or plain seconds."""
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(f"{text!r} is no time: give seconds, or a number with s, m or h, such as 30s")
    return seconds


@cli.command()
@features()
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
@click.option("--budget", callback=_seconds, metavar="TIME", help="Train the best head for so long, e.g. 30s or 5m.")
@click.option("--patience", type=int, help="Checks on held-out rows without gain before the rate is cut; 0: never.")
@click.option("--batch-size", type=int)
@click.option("--lr", type=float, help="Adam's learning rate.")
@click.option("--decay-at", type=int, help="Divide the learning rate by 10 from this epoch on; 0 for never.")
@click.option("--weight-decay", type=float)
@click.option("--seed", type=int, default=TrainSettings.seed, show_default=True)
@click.option("--device", help="cpu or cuda.  [default: cuda where there is one]")
@click.option("--resume", is_flag=True, help="Continue an interrupted run from its checkpoint.")
@out(TrainSettings.out)
@overwrite
@as_json
def train(as_json: bool, **options: Any) -> None:
    """Train a hash head on the train split.  Ctrl-C saves a checkpoint.

    Several processes: torchrun --nproc-per-node N -m sdc train ...
    """
    from sdc.train.model import Model
    from sdc.train.run import leads, run

    started = time.monotonic()
    path = run(TrainSettings(**options))
    seconds = time.monotonic() - started
    if not leads():
        return
    model = Model.load(path)
    training = model.metadata["training"]
    if as_json:
        _print_json(
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


@cli.command()
@features(EncodeSettings.features)
@click.option("--model", type=PATH, default=EncodeSettings.model, show_default=True)
@click.option("--index-type", default=EncodeSettings.index_type, show_default=True, help="flat: exact search.")
@click.option(
    "--recenter/--no-recenter",
    default=EncodeSettings.recenter,
    help="Take the batch norm's mean from the database instead of the training set, for a database unlike it.  "
    "[default: for models of the preset paper-instance]",
)
@out(EncodeSettings.out)
@overwrite
@as_json
def encode(as_json: bool, **options: Any) -> None:
    """Encode the database split into a searchable index of binary codes."""
    from sdc.retrieve.encode import run

    _report(run(EncodeSettings(**options)), as_json)


@cli.command()
@click.option("--index", type=PATH, default=SearchSettings.index, show_default=True)
@click.option("--queries", type=PATH, metavar="FILE", help="Query vectors, in any format `sdc import` reads.")
@click.option("--image", "images", type=PATH, multiple=True, metavar="FILE", help="An image; may be repeated.")
@click.option("--id", "ids", multiple=True, help="An item of the database or the query split; may be repeated.")
@click.option("--limit", type=int, help="At most so many queries.  [default: 10 of the query split; all with --json]")
@click.option("-k", "k", type=int, default=SearchSettings.k, show_default=True, help="Neighbours a query.")
@click.option("--model", type=PATH, help="The model that encoded the index.  [default: where it was then]")
@click.option("--weights", metavar="FILE|random:SEED", help="The backbone's weights, for --image.")
@click.option(
    "--verify/--no-verify",
    default=SearchSettings.verify,
    show_default=True,
    help="Check every byte of the index first.",
)
@as_json
def search(as_json: bool, **options: Any) -> None:
    """Find the nearest codes of queries.

    Without --queries, --image or --id the query split is searched.
    """
    from sdc.retrieve.search import search as find

    named = options["queries"] or options["images"] or options["ids"]
    if options["limit"] is None and not named and not as_json:
        options["limit"] = 10
    found = find(SearchSettings(**options))
    if as_json:
        _print_json(found)
        return
    for result in found["results"]:
        neighbors = "  ".join(f"{n['id']} ({n['distance']})" for n in result["neighbors"])
        click.echo(f"{result['query']}: {neighbors}")


@cli.command()
@click.option("--index", type=PATH, default=EvaluateSettings.index, show_default=True)
@click.option("--at", type=int, help="R of mAP@R.  [default: the data set's, else 1000]")
@click.option(
    "--protocol",
    help="category: items that share a label; relevant or revisited: those that the ground truth lists.  "
    "[default: the data set's]",
)
@click.option(
    "--denominator",
    type=click.Choice(["found", "all", "capped"]),
    help="Of AP: relevant items found in the top R, all there are, or these but R at most.  "
    "[default: found; all for relevant]",
)
@click.option(
    "--no-hit",
    type=click.Choice(["zero", "skip"]),
    default=EvaluateSettings.no_hit,
    show_default=True,
    help="A query without a relevant item in the top R counts as 0, or is left out.",
)
@click.option("--neighbors", type=click.Choice(["float"]), help="Compare with the features' own cosine ranking too.")
@click.option("--features", type=PATH, help="The features that were encoded.  [default: where they were then]")
@click.option("--curves", type=PATH, metavar="FILE", help="Write curves and per-query values to a .csv or .json.")
@click.option(
    "--verify/--no-verify",
    default=EvaluateSettings.verify,
    show_default=True,
    help="Check every byte of the files first.",
)
@as_json
def evaluate(as_json: bool, **options: Any) -> None:
    """Score the index on its query split: mAP over ties, precision, recall, neighbour recall.

    Landmark sets are scored by their own protocol.  The conventions that were used stand below the scores.
    """
    from sdc.retrieve.evaluate import evaluate as score

    found = score(EvaluateSettings(**options))
    if as_json:
        _print_json(found)
        return
    _print_numbers(found)


@cli.command()
@click.option("--index", type=PATH, default=DiagnoseSettings.index, show_default=True)
@click.option("--features", type=PATH, help="The features that were encoded.  [default: where they were then]")
@click.option(
    "--sample", type=int, default=DiagnoseSettings.sample, show_default=True, help="Rows whose pairs are examined."
)
@click.option("--seed", type=int, default=DiagnoseSettings.seed, show_default=True)
@click.option("--out", type=PATH, metavar="FILE", help="Similarity histograms as a .png figure or a .csv table.")
@click.option(
    "--verify/--no-verify", default=DiagnoseSettings.verify, show_default=True, help="Check every byte first."
)
@as_json
def diagnose(as_json: bool, **options: Any) -> None:
    """Say whether the codes have collapsed, how, and what to change."""
    from sdc.retrieve.collapse import run

    found = run(DiagnoseSettings(**options))
    if as_json:
        _print_json(found)
        return
    findings, notes = found.pop("findings"), found.pop("notes")
    _print_numbers(found)
    for kind, said in (("finding", findings), ("note", notes)):
        for finding in said:
            click.echo(f"{kind}: {finding['message']}")
    if not findings:
        click.echo("no sign of a collapse")


ABLATIONS = """
\b
The paper's experiments and three checks of them, a command each:
  methods over bits   sdc ablate --over method --bits 16,32,64
  instance-level      sdc ablate --over method=itq,sdc --preset paper-instance --bits 128,256,512
  distributions       sdc ablate --over calibration
  alpha = beta        sdc ablate --over alpha
  overlap and gain    sdc ablate --features a.h5 --features b.h5 --over method=lsh,itq,sdc
  alpha x beta        sdc ablate --features a.h5 --features b.h5 --over alpha --over beta --seeds 1
  linear scaling      sdc ablate --over method=itq,sdc --over calibration=linear,beta:16,16

The folder gets results.csv (a row a cell), results.md (mean ± sd over seeds) and figures. Killed or interrupted, the
same command goes on: finished cells are kept.
"""


def _lengths(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected lengths of codes, such as 64 or 16,32,64") from None


@cli.command(epilog=ABLATIONS)
@click.option(
    "--features",
    type=PATH,
    multiple=True,
    default=AblateSettings.features,
    show_default=True,
    help="Feature file to read; may be repeated.",
)
@click.option(
    "--over",
    multiple=True,
    metavar="NAME[=V,V,...]",
    help=f"A setting to vary; may be repeated, for a product. With default values: {', '.join(OVER)}; any other "
    "setting of `sdc train` takes values.",
)
@click.option(
    "--bits",
    default=",".join(map(str, AblateSettings.bits)),
    show_default=True,
    callback=_lengths,
    help="Lengths of a code, such as 16,32,64.",
)
@click.option("--seeds", type=int, default=AblateSettings.seeds, show_default=True, help="Runs of each cell.")
@click.option("--preset", default=AblateSettings.preset, show_default=True)
@click.option("--method", default=AblateSettings.method, show_default=True)
@click.option("--epochs", type=int, help="At most.  [default: the preset's or the method's]")
@click.option(
    "--set", "fixed", multiple=True, metavar="NAME=V", help="Any other setting of `sdc train`; may be repeated."
)
@click.option("--jobs", type=int, help="Cells at once, a process of one thread each.  [default: one a processor]")
@click.option("--out", type=PATH, default=AblateSettings.out, show_default=True, help="Folder to fill.")
@overwrite
@as_json
def ablate(as_json: bool, **options: Any) -> None:
    """Vary settings of training over a grid, and compare what comes of it."""
    from sdc.ablate.run import run
    from sdc.ablate.tables import read_csv

    path = run(AblateSettings(**options))
    if not as_json:
        click.echo((path / "results.md").read_text(encoding="utf-8"), nl=False)
        return
    rows = read_csv(path / "results.csv")
    _print_json({"out": str(path), "cells": len(rows), "rows": rows})


@cli.command()
@click.option("--model", type=PATH, default=ExportSettings.model, show_default=True)
@click.option("--onnx", type=PATH, metavar="FILE", help="Write an ONNX file; needs sdc-hash[export].")
@click.option("--torch", type=PATH, metavar="FILE", help="Write a program for torch.export.load.")
@overwrite
@as_json
def export(model: Path, as_json: bool, overwrite: bool, **files: Path | None) -> None:
    """Write the head for other programs: features in, packed codes out.

    Each file is checked against PyTorch, bit for bit, before it appears.
    """
    from sdc.train.export import run
    from sdc.train.model import Model

    if not any(files.values()):
        raise click.UsageError("nothing to write: give --onnx FILE, --torch FILE or both")
    for name, file in files.items():
        if file is not None:
            run(ExportSettings(model=model, format=name, out=file, overwrite=overwrite))
    head = Model.load(model)
    if as_json:
        written = {name: file and str(file) for name, file in files.items()}
        made_of = {"method": head.metadata["method"], "bits": head.bits, "fingerprint": head.fingerprint}
        _print_json({"model": str(model), **made_of, **written})
        return
    for name, file in files.items():
        if file is not None:
            click.echo(f"{file}: {head.metadata['method']}, {head.bits} bits, for {name}")


@cli.command()
@click.argument("file", type=PATH)
@as_json
def inspect(file: Path, as_json: bool) -> None:
    """Show what a file holds, where it came from, and whether it is whole."""
    from sdc.api import inspect as describe

    found = describe(file)
    if as_json:
        _print_json(found)
    else:
        for key, value in found.items():
            click.echo(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    if not found["whole"]:
        sys.exit(1)


def _report(path: Path, as_json: bool) -> None:
    """Says what a stage wrote."""
    from sdc.api import inspect as describe

    found = describe(path)
    if as_json:
        _print_json({"out": str(path), **found})
    else:
        width = f"{found['bits']} bits" if "bits" in found else f"{found['dimension']} dimensions"
        click.echo(f"{path}: {found['rows']} rows of {width}")


def _print_numbers(found: dict[str, Any], path: str = "") -> None:
    """A number a line, under the path of its keys: `precision@10`, `coarse.map`."""
    for key, value in found.items():
        label = f"{path}{'@' if key.isdigit() else '.'}{key}" if path else key
        if isinstance(value, dict):
            _print_numbers(value, label)
        else:
            click.echo(f"{label:22} {value:.4f}" if isinstance(value, float) else f"{label:22} {value}")


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def main() -> None:
    """The entry point: turns errors into one line and an exit code (1 data, 2 usage, 130 interrupted)."""
    log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else started so as to ignore it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        cli.main(prog_name="sdc", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SdcError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        sys.exit(1)
    except MemoryError:
        _fail("out of memory", 1)
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error) and "out of memory" not in str(error):
            raise
        _fail("out of memory: a smaller --batch-size, --hidden or number of --bits takes less", 1)
    except PermissionError as error:
        _fail(f"no permission for {error.filename}: get it, or name another file", 1)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C. A plain KeyboardInterrupt that passes through exec(), as in an import of dataclasses, makes Python
    end `python -m sdc` by the signal itself, whatever exit code was asked for."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _Interrupted


def _fail(message: str, code: int) -> None:
    print("sdc: error:", " ".join(message.splitlines()), file=sys.stderr)
    sys.exit(code)
