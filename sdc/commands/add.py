"""The command add."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import PATH, as_json, features, index, verify
from sdc.commands.printing import print_change
from sdc.retrieve.update import AddSettings


@click.command()
@index(AddSettings.index)
@features(AddSettings.features)
@click.option("--model", type=PATH, help="The model that encoded the index.  [default: where it was then]")
@click.option("--replace", is_flag=True, help="Where the index has an id already, put the new item in its place.")
@verify(AddSettings.verify, "the files read")
@as_json
def add(as_json: bool, **options: Any) -> None:
    """Add the database split of a feature file to an index, beside db.bin.

    Whoever searches at the same time finds all of it or nothing; a kill leaves the index as it was.
    """
    from sdc.retrieve.update import add as change

    result = change(AddSettings(**options))
    print_change(result, as_json, f"{result['added']} added{_replaced(result['replaced'])}")


def _replaced(count: int) -> str:
    return f", {count} replaced" if count else ""
