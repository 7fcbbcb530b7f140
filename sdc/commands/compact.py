"""The command compact."""

from __future__ import annotations

from pathlib import Path

import click

from sdc.commands.options import as_json, index
from sdc.commands.printing import print_change
from sdc.retrieve.update import CompactSettings


@click.command()
@index(CompactSettings.index)
@as_json
def compact(as_json: bool, index: Path) -> None:
    """Merge what was added and removed into a new db.bin.

    Searches need no longer look in two places then, and the index is built anew.
    """
    from sdc.retrieve.update import compact as change

    result = change(CompactSettings(index))
    print_change(result, as_json, f"{result['added']} added and {result['removed']} removed items merged")
