"""The commands of `sdc`, one a module; each parses, calls a stage and prints."""

from __future__ import annotations

import importlib
from typing import Any

import click

__all__ = ["COMMANDS", "LazyGroup"]

# Name: what `sdc --help` says of it, which is the first sentence of the command's own help.
COMMANDS = {
    "ablate": "Vary settings of training over a grid, and compare what comes of it.",
    "add": "Add the database split of a feature file to an index, beside db.bin.",
    "compact": "Merge what was added and removed into a new db.bin.",
    "compare": "Compare SDC with ITQ, sign, PQ, RaBitQ and float16 on your vectors, "
    "and say when it is not the best choice.",
    "datasets": "List the sets of images: what must be on disk, where to get it, splits, labels and protocol.",
    "diagnose": "Say whether the codes have collapsed, how, and what to change.",
    "encode": "Encode the database split into a searchable index of binary codes.",
    "evaluate": "Score the index on its query split: mAP over ties, precision, recall, neighbour recall.",
    "export": "Write the head for other programs: features in, packed codes out.",
    "extract": "Dump a backbone's features of a set of images.",
    "import": "Take in existing vectors.",
    "inspect": "Show what a file holds, where it came from, and whether it is whole.",
    "push": "Copy the codes into Milvus or PostgreSQL, and check what they find there.",
    "remove": "Remove items from an index by their ids.",
    "reproduce": "Make a table of the paper: our figures beside the published ones.",
    "search": "Find the nearest codes of queries.",
    "serve": "Answer searches over HTTP, with a page to try it.",
    "train": "Train a hash head on the train or the database split.  Ctrl-C saves a checkpoint.",
}
_MODULES = {"import": "import_vectors"}  # names that no module can have


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is run."""

    def __init__(self, **settings: Any) -> None:
        # What stands in for the commands in the help, and in what is said of an unknown name.
        listed = [click.Command(name, help=text) for name, text in COMMANDS.items()]
        super().__init__(commands=listed, **settings)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = _MODULES.get(name, name)
        command: click.Command = getattr(importlib.import_module(f"sdc.commands.{module}"), module)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        click.Group(commands=self.commands).format_commands(context, formatter)
