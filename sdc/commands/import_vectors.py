"""The command import."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import PATH, as_json, out, overwrite
from sdc.commands.printing import print_file
from sdc.extract import ImportSettings, import_features
from sdc.extract.readers import READERS


@click.command("import", help=f"Take in existing vectors.  Files may end in {', '.join(READERS)}.")
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
def import_vectors(as_json: bool, **options: Any) -> None:
    print_file(import_features(ImportSettings(**options)), as_json)
