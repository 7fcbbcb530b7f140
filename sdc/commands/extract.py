"""The command extract."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import FACTORS, PATH, as_json, device, out, overwrite
from sdc.commands.printing import print_file
from sdc.devices import is_main_process
from sdc.extract import LONGEST, SCALES, ExtractSettings, extract_features
from sdc.extract.backbones import BACKBONES


@click.command()
@click.option(
    "--backbone",
    default=ExtractSettings.backbone,
    show_default=True,
    help=f"{', '.join(BACKBONES)}, or any timm model.",
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
    type=FACTORS,
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
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="folder: leave out files and folders of such names, such as '*_thumb.jpg', or paths, such as 'old/*'; may be "
    "repeated.",
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
    path = extract_features(ExtractSettings(**options))
    if is_main_process():
        print_file(path, as_json)
