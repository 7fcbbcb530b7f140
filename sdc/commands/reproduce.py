"""The command reproduce."""

from __future__ import annotations

import json
from typing import Any

import click

from sdc.commands.options import LENGTHS, PATH, Parsed, as_json, device, jobs, overwrite
from sdc.commands.printing import print_json
from sdc.reproduce import TABLES, ReproduceSettings

# Tables whose heads are trained on another set, and that set.
_ELSEWHERE = ", ".join(name for name, table in TABLES.items() if table.trained_on)
_TRAINED_ON = ", ".join(dict.fromkeys(table.trained_on for table in TABLES.values() if table.trained_on))
_DISTINCT_NAMES = Parsed(lambda text: tuple(dict.fromkeys(text.split(","))))


@click.command()
@click.argument("table", required=False)
@click.option("--root", type=PATH, help="Where the table's set lies.  [default: $SDC_DATA/NAME]")
@click.option("--features", type=PATH, help="Features of that set, instead of extracting them.")
@click.option("--train-root", type=PATH, help=f"{_ELSEWHERE}: where {_TRAINED_ON} lies, which heads are trained on.")
@click.option("--train-features", type=PATH, help=f"{_ELSEWHERE}: features of {_TRAINED_ON}.")
@click.option("--backbone", help="Another than the paper's; figures are not comparable then.")
@click.option("--weights", metavar="FILE|random:SEED", help="The backbone's weights instead of its pretrained ones.")
@click.option("--bits", type=LENGTHS, help="Lengths of a code, such as 16,32,64.  [default: the table's]")
@click.option("--methods", type=_DISTINCT_NAMES, metavar="M,M,...", help="Of the table's.  [default: all]")
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
        from sdc.reproduce import make_plan, plan_text

        plan = make_plan(settings)
        if as_json:
            print_json(plan)
        else:
            click.echo(plan_text(plan))
        return
    from sdc.reproduce import reproduce as run

    path = run(settings)
    if as_json:
        print_json({"out": str(path), **json.loads((path / "results.json").read_text(encoding="utf-8"))})
    else:
        click.echo((path / "results.md").read_text(encoding="utf-8"), nl=False)


def _list_tables(as_json: bool) -> None:
    from sdc.reproduce import catalogue

    tables = catalogue()
    if as_json:
        print_json({"tables": tables})
        return
    for table in tables:
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
