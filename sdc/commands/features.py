"""The commands that make a feature file: extract, import; and datasets."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.common import PATH, as_json, device, out, overwrite, print_json, report
from sdc.devices import is_main_process
from sdc.extract.images import LONGEST, SCALES
from sdc.extract.import_vectors import ImportSettings
from sdc.extract.run import ExtractSettings


def _scales(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """0.7071,1,1.4142"""
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected factors, such as 0.7071,1,1.4142") from None


@click.command()
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
    help="A set that `sdc datasets` lists; folder: any folder of images, a subfolder a label; webdataset: tar shards.",
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
@device
@click.option("--seed", type=int, default=ExtractSettings.seed, show_default=True)
@out(ExtractSettings.out)
@overwrite
@as_json
def extract(as_json: bool, **options: Any) -> None:
    """Dump a backbone's features of a set of images.

    Killed or interrupted, the same command resumes where it stopped.

    Started several times at once, also on hosts that share the folder of --out, or by torchrun --nproc-per-node N
    -m sdc extract ..., the processes share the work, and what a killed one leaves is taken over.
    """
    from sdc.extract.run import run

    path = run(ExtractSettings(**options))
    if is_main_process():
        report(path, as_json)


@click.command("datasets")
@as_json
def datasets_(as_json: bool) -> None:
    """List the sets of images: what must be on disk, where to get it, splits, labels and protocol.

    \b
    With SDC_DATA=/data, the set NAME is sought in /data/NAME where --root names no folder.
    """
    from sdc.extract.datasets import catalogue

    found = catalogue()
    if as_json:
        print_json(found)
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


@click.command("import")
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
    from sdc.extract.import_vectors import run

    report(run(ImportSettings(**options)), as_json)
