"""The commands that run the chain many times over: ablate, reproduce."""

from __future__ import annotations

import json
from typing import Any

import click

from sdc.ablate.run import AblateSettings
from sdc.commands.common import PATH, as_json, device, jobs, lengths, overwrite, print_json
from sdc.experiments.grid import OVER
from sdc.reproduce.run import ReproduceSettings

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
    callback=lengths,
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
@click.option("--out", type=PATH, default=AblateSettings.out, show_default=True, help="Folder to fill.")
@overwrite
@as_json
def ablate(as_json: bool, **options: Any) -> None:
    """Vary settings of training over a grid, and compare what comes of it."""
    from sdc.ablate.run import run
    from sdc.experiments.tables import read_csv

    path = run(AblateSettings(**options))
    if not as_json:
        click.echo((path / "results.md").read_text(encoding="utf-8"), nl=False)
        return
    rows = read_csv(path / "results.csv")
    print_json({"out": str(path), "cells": len(rows), "rows": rows})


def _names(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(dict.fromkeys(text.split(",")))


@click.command()
@click.argument("table", required=False)
@click.option("--root", type=PATH, help="Where the table's set lies.  [default: $SDC_DATA/NAME]")
@click.option("--features", type=PATH, help="Features of that set, instead of extracting them.")
@click.option("--train-root", type=PATH, help="roxf, rparis: where gldv2 lies, which heads are trained on.")
@click.option("--train-features", type=PATH, help="roxf, rparis: features of gldv2.")
@click.option("--backbone", help="Another than the paper's; figures are not comparable then.")
@click.option("--weights", metavar="FILE|random:SEED", help="The backbone's weights instead of its pretrained ones.")
@click.option("--bits", callback=lengths, help="Lengths of a code, such as 16,32,64.  [default: the table's]")
@click.option("--methods", callback=_names, metavar="M,M,...", help="Of the table's.  [default: all]")
@click.option("--seeds", type=int, default=ReproduceSettings.seeds, show_default=True, help="Runs of each cell.")
@click.option("--limit", type=int, help="Extract a stratified sample of so many images: a trial, not comparable.")
@jobs
@device
@click.option("--out", type=PATH, help="Folder to fill.  [default: reproduce-TABLE]")
@click.option("--dry-run", is_flag=True, help="Only say what is there, what is missing, and the disk and time needed.")
@overwrite
@as_json
def reproduce(table: str | None, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Make a table of the paper: our figures beside the published ones.

    Without TABLE, list the tables. The folder gets features, finished cells, results.csv, results.md and results.json.
    Killed or interrupted, the same command goes on from there.
    """
    if table is None:
        _list_tables(as_json)
        return
    settings = ReproduceSettings(table=table, **options)
    if dry_run:
        from sdc.reproduce.plan import plan, shown

        found = plan(settings)
        if as_json:
            print_json(found)
        else:
            click.echo(shown(found))
        return
    from sdc.reproduce.run import run

    path = run(settings)
    if as_json:
        print_json({"out": str(path), **json.loads((path / "results.json").read_text(encoding="utf-8"))})
    else:
        click.echo((path / "results.md").read_text(encoding="utf-8"), nl=False)


def _list_tables(as_json: bool) -> None:
    from sdc.reproduce.tables import catalogue

    found = catalogue()
    if as_json:
        print_json({"tables": found})
        return
    for table in found:
        trained = "" if table["trained_on"] == table["data"] else f", trained on {table['trained_on']}"
        bits = ",".join(map(str, table["bits"]))
        click.echo(f"{table['name']}: {table['about']} ({table['place']})")
        click.echo(f"    {table['data']}{trained}, {table['backbone']}, {bits} bits, {', '.join(table['methods'])}")
        needs: dict[str, list[str]] = {}
        for piece in table["needs"]:
            needs.setdefault(f"{piece['data']}, from {piece['from']}", []).append(piece["path"])
        for source, paths in needs.items():
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            click.echo(f"    needs {', '.join(paths[:3])}{more} of {source}")
        click.echo(f"    {table['published']} of {table['cells']} published figures are known")
