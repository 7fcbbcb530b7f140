"""The command inspect."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sdc.commands.options import PATH, as_json
from sdc.commands.printing import print_json
from sdc.files import json_text


@click.command()
@click.argument("file", type=PATH)
@as_json
def inspect(file: Path, as_json: bool) -> None:
    """Show what a file holds, where it came from, and whether it is whole."""
    from sdc.api import inspect as describe

    description = describe(file)
    if as_json:
        print_json(description)
    else:
        for key, value in description.items():
            click.echo(f"{key}: {value if isinstance(value, str) else json_text(value)}")
    if not description["whole"]:
        sys.exit(1)
