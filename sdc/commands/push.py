"""The command push."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import as_json, index, verify
from sdc.commands.printing import print_json
from sdc.retrieve.engines import PushSettings, index_types, url_forms


@click.command()
@index(PushSettings.index)
@click.option("--to", required=True, metavar="URL", help=f"{'; or '.join(url_forms())}.")
@click.option(
    "--index-type",
    metavar="|".join(index_types()),
    default=PushSettings.index_type,
    show_default=True,
    help="flat: exact search.  Faster and approximate: ivf in Milvus (not in the embedded one), hnsw in PostgreSQL.",
)
@click.option("--batch", type=int, default=PushSettings.batch, show_default=True, help="Most codes a request.")
@click.option("--overwrite", is_flag=True, help="Replace what another index left there, or what was changed there.")
@verify(PushSettings.verify, "the index")
@as_json
def push(as_json: bool, **options: Any) -> None:
    """Copy the codes into Milvus or PostgreSQL, and check what they find there.

    A push that was cut off goes on where it was.  Search it with `sdc search --index URL`.  Passwords stand in the
    environment: MILVUS_TOKEN=USER:PASSWORD, and PGPASSWORD or ~/.pgpass.
    """
    from sdc.retrieve.engines import push_index

    result = push_index(PushSettings(**options))
    if as_json:
        print_json(result)
    else:
        click.echo(f"{result['to']}: {result['count']} rows of {result['bits']} bits, {result['pushed']} of them new")
