"""The command diagnose."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import OUTPUT, as_json, encoded_features, index, verify
from sdc.commands.printing import print_json, print_numbers
from sdc.retrieve.diagnose import DiagnoseSettings


@click.command()
@index(DiagnoseSettings.index)
@encoded_features
@click.option(
    "--sample", type=int, default=DiagnoseSettings.sample, show_default=True, help="Rows whose pairs are examined."
)
@click.option("--seed", type=int, default=DiagnoseSettings.seed, show_default=True)
@click.option("--out", type=OUTPUT, metavar="FILE", help="Similarity histograms as a .png figure or a .csv table.")
@verify(DiagnoseSettings.verify)
@as_json
def diagnose(as_json: bool, **options: Any) -> None:
    """Say whether the codes have collapsed, how, and what to change."""
    from sdc.retrieve.diagnose import diagnose as run

    diagnosis = run(DiagnoseSettings(**options))
    if as_json:
        print_json(diagnosis)
        return
    findings, notes = diagnosis.pop("findings"), diagnosis.pop("notes")
    print_numbers(diagnosis)
    for kind, messages in (("finding", findings), ("note", notes)):
        for finding in messages:
            click.echo(f"{kind}: {finding['message']}")
    if not findings:
        click.echo("no sign of a collapse")
