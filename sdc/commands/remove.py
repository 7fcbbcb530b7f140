"""The command remove."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import ID, PATH, as_json, index, verify
from sdc.commands.printing import print_change
from sdc.retrieve.update import RemoveSettings


@click.command()
@index(RemoveSettings.index)
@click.option("--id", "ids", type=ID, metavar="TEXT", multiple=True, help="An item's id; may be repeated.")
@click.option("--ids", "listed", type=PATH, metavar="FILE", help="Ids, one a line.")
@click.option("--ignore-missing", is_flag=True, help="Take ids that the index does not have for removed.")
@verify(RemoveSettings.verify, "the files read")
@as_json
def remove(as_json: bool, **options: Any) -> None:
    """Remove items from an index by their ids.

    All of them in one change, or none where an id is unknown.
    """
    from sdc.retrieve.update import remove as change

    result = change(RemoveSettings(**options))
    missing = f", {result['missing']} unknown" if result["missing"] else ""
    print_change(result, as_json, f"{result['removed']} removed{missing}")
