"""The command import."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import OUTPUT, PATH, as_json, overwrite
from sdc.commands.printing import print_file
from sdc.extract import ImportSettings, import_features
from sdc.extract.readers import READERS


@click.command(
    "import",
    help="Take in existing vectors.\n\nA file, a folder of files, a 'pattern*' or several files, as one.  "
    f"Files may end in {', '.join(READERS)}.",
)
@click.argument("vectors", type=PATH, nargs=-1, required=True)
@click.option("--column", metavar="NAME", help="The array or column with the vectors.  [default: by name and shape]")
@click.option("--labels", type=PATH, help="Text with a label a line, or any kind of file that vectors come in.")
@click.option("--label-column", metavar="NAME", help="Of --labels, else of VECTORS; or none.  [default: by name]")
@click.option("--labels-coarse", type=PATH, help="A second level above the labels, in the same forms.")
@click.option("--ids", type=PATH, help="The same with an id a line.  [default: those in VECTORS, else row numbers]")
@click.option("--id-column", metavar="NAME", help="Of --ids, else of VECTORS; or none.  [default: by name]")
@click.option("--text-column", metavar="NAME", help="Of VECTORS: what searches show; or none.  [default: by name]")
@click.option("--splits", type=PATH, help="npz with the row numbers of train, query and database.")
@click.option("--groundtruth", type=PATH, help="gnd_roxford5k.pkl or gnd_rparis6k.pkl, for their features.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Stored precision.  [default: as it is]")
@click.option("--seed", type=int, default=ImportSettings.seed, show_default=True)
@click.option("--codes", is_flag=True, help="VECTORS are codes made elsewhere, packed or bool: make an index of them.")
@click.option("--out", type=OUTPUT, help=f"File to write.  [default: {ImportSettings.out}; with --codes db.bin]")
@overwrite
@as_json
def import_vectors(as_json: bool, codes: bool, **options: Any) -> None:
    vectors = options.pop("vectors")
    if codes:
        from sdc.retrieve import EncodeSettings, import_codes  # which take longer to import than most files

        make, default = import_codes, EncodeSettings.out
    else:
        make, default = import_features, ImportSettings.out
    options["out"] = options["out"] or default
    settings = ImportSettings(vectors[0] if len(vectors) == 1 else vectors, **options)
    print_file(make(settings), as_json)
