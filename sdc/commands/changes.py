"""The commands that change an index: add, remove, compact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sdc.commands.common import PATH, as_json, features, print_json
from sdc.retrieve.update.settings import AddSettings, CompactSettings, RemoveSettings

_index = click.option("--index", type=PATH, default=AddSettings.index, show_default=True)


_verify = click.option(
    "--verify/--no-verify",
    default=AddSettings.verify,
    show_default=True,
    help="Check every byte of the files read first.",
)


@click.command()
@_index
@features(AddSettings.features)
@click.option("--model", type=PATH, help="The model that encoded the index.  [default: where it was then]")
@click.option("--replace", is_flag=True, help="Where the index has an id already, put the new item in its place.")
@_verify
@as_json
def add(as_json: bool, **options: Any) -> None:
    """Add the database split of a feature file to an index, beside db.bin.

    Whoever searches at the same time finds all of it or nothing; a kill leaves the index as it was.
    """
    from sdc.retrieve.update.changes import add as change

    found = change(AddSettings(**options))
    _print(found, as_json, f"{found['added']} added{_replaced(found['replaced'])}")


def _replaced(count: int) -> str:
    return f", {count} replaced" if count else ""


@click.command()
@_index
@click.option("--id", "ids", multiple=True, help="An item's id; may be repeated.")
@click.option("--ids", "listed", type=PATH, metavar="FILE", help="Ids, one a line.")
@click.option("--ignore-missing", is_flag=True, help="Take ids that the index does not have for removed.")
@_verify
@as_json
def remove(as_json: bool, **options: Any) -> None:
    """Remove items from an index by their ids.

    All of them in one change, or none where an id is unknown.
    """
    from sdc.retrieve.update.changes import remove as change

    found = change(RemoveSettings(**options))
    missing = f", {found['missing']} unknown" if found["missing"] else ""
    _print(found, as_json, f"{found['removed']} removed{missing}")


@click.command()
@_index
@as_json
def compact(as_json: bool, index: Path) -> None:
    """Merge what was added and removed into a new db.bin.

    Searches need no longer look in two places then, and an index of type ivf gets new lists.
    """
    from sdc.retrieve.update.changes import compact as change

    found = change(CompactSettings(index))
    _print(found, as_json, f"{found['added']} added and {found['removed']} removed items merged")


def _print(found: dict[str, Any], as_json: bool, what: str) -> None:
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['index']}: {what}; {found['rows']} items, generation {found['generation']}")
