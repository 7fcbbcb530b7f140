"""The command ablate."""

from __future__ import annotations

from typing import Any

import click

from sdc.ablate import AblateSettings
from sdc.commands.options import LENGTHS, PATH, as_json, jobs, out_folder, overwrite
from sdc.commands.printing import print_json
from sdc.experiments import OVER

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


@click.command(epilog=ABLATIONS)
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
    type=LENGTHS,
    help="Lengths of a code, such as 16,32,64.",
)
@click.option("--seeds", type=int, default=AblateSettings.seeds, show_default=True, help="Runs of each cell.")
@click.option("--preset", default=AblateSettings.preset, show_default=True)
@click.option("--method", default=AblateSettings.method, show_default=True)
@click.option("--epochs", type=int, help="At most.  [default: the preset's or the method's]")
@click.option(
    "--set", "fixed", multiple=True, metavar="NAME=V", help="Any other setting of `sdc train`; may be repeated."
)
@jobs
@out_folder(AblateSettings.out)
@overwrite
@as_json
def ablate(as_json: bool, **options: Any) -> None:
    """Vary settings of training over a grid, and compare what comes of it."""
    from sdc.ablate import ablate as run
    from sdc.experiments import read_csv

    path = run(AblateSettings(**options))
    if not as_json:
        click.echo((path / "results.md").read_text(encoding="utf-8"), nl=False)
        return
    rows = read_csv(path / "results.csv")
    print_json({"out": str(path), "cells": len(rows), "rows": rows})
