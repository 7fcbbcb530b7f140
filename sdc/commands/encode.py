"""The command encode."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import PATH, SIZE, as_json, features, out, overwrite
from sdc.commands.printing import print_file, print_verdict
from sdc.retrieve import EncodeSettings
from sdc.retrieve.index import index_type_help, index_type_names


@click.command()
@features(EncodeSettings.features)
@click.option("--model", type=PATH, default=EncodeSettings.model, show_default=True)
@click.option(
    "--index-type",
    metavar="|".join(index_type_names()),
    default=EncodeSettings.index_type,
    show_default=True,
    help=index_type_help(),
)
@click.option(
    "--recall",
    type=float,
    default=EncodeSettings.recall,
    show_default=True,
    help="Of the 10 nearest codes, how many an approximate type is to find.",
)
@click.option("--memory", type=SIZE, metavar="SIZE", help="What searching the codes may take, e.g. 4GB.")
@click.option(
    "--recenter/--no-recenter",
    default=EncodeSettings.recenter,
    help="Take the batch norm's mean from the database instead of the training set, for a database unlike it.  "
    "[default: for models of the preset paper-instance]",
)
@click.option(
    "--no-refine",
    is_flag=True,
    help="Codes, those of queries too, are the head's signs, though its model could refine them.",
)
@out(EncodeSettings.out)
@overwrite
@as_json
def encode(as_json: bool, **options: Any) -> None:
    """Encode the database split into a searchable index of binary codes.

    Where the model refines codes, those of the database depart further from the signs of the head's outputs than those
    of queries: an item's own vector, as a query, may be at a distance above 0 from the item.

    A verdict, measured on a sample, ends it: size, what codes alone and re-ranked find, latency, and what to do.
    """
    from sdc.retrieve import encode_database as run
    from sdc.retrieve.index import Index
    from sdc.retrieve.verdict import judge, verdict_json, verdict_lines

    settings = EncodeSettings(**options)
    path = run(settings)
    figures = judge(Index.open(path, verify=False), settings.model, settings.features)
    print_file(path, as_json, {"verdict": verdict_json(figures)})
    print_verdict(verdict_lines(figures), as_json)
