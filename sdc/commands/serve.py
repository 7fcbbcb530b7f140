"""The command serve."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import PATH, SIZE, index, verify
from sdc.retrieve.features import PRECISIONS
from sdc.serve import ServeSettings


@click.command()
@index(ServeSettings.index)
@click.option("--model", type=PATH, help="The model that encoded the index.  [default: where it was then]")
@click.option("--features", type=PATH, help="Those that were encoded, for rerank.  [default: where they were]")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=ServeSettings.precision,
    show_default=True,
    help="Of these features, see `sdc search --help`.",
)
@click.option("--host", default=ServeSettings.host, show_default=True, help="Name or address to listen on.")
@click.option("--port", type=int, default=ServeSettings.port, show_default=True, help="0 takes any that is free.")
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="Answer to this name too, as a proxy passes it on; may be repeated.  On loopback all names but localhost "
    "are refused, lest web pages reach the service by DNS rebinding.",
)
@click.option(
    "--images",
    type=PATH,
    metavar="FOLDER",
    help="Show images: the ids are paths in FOLDER.  Links that lead out of it are not followed.",
)
@click.option("--weights", metavar="FILE|random:SEED", help="The backbone's weights, for images as queries.")
@click.option("--max-k", type=int, default=ServeSettings.max_k, show_default=True, help="Most neighbours a query.")
@click.option(
    "--max-body",
    type=SIZE,
    metavar="SIZE",
    default=f"{ServeSettings.max_body >> 20}MiB",
    show_default=True,
    help="Most bytes of a request.",
)
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    default=ServeSettings.timeout,
    show_default=True,
    help="For a request to be sent and answered, and for those that are running at the end.",
)
@verify(ServeSettings.verify, "an index")
def serve(**options: Any) -> None:
    """Answer searches over HTTP, with a page to try it.

    A changed index is taken up while it runs: put another in its place by renaming, as all commands here do.  One that
    is copied over the old file ends the service, which reads it where it lies.

    SIGTERM or Ctrl-C ends it, once what is running is answered.
    """
    from sdc.serve import serve as run

    run(ServeSettings(**options))
