"""The command compare."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import LENGTHS, NAMES, as_json, features, out_folder, overwrite
from sdc.commands.printing import print_json
from sdc.compare import CompareSettings


@click.command()
@features(CompareSettings.features)
@click.option(
    "--bits",
    default=",".join(map(str, CompareSettings.bits)),
    show_default=True,
    type=LENGTHS,
    help="Lengths of a code, such as 64,128,256; other methods get as many bytes.",
)
@click.option(
    "--methods",
    default=",".join(CompareSettings.methods),
    show_default=True,
    type=NAMES,
    help="Any of `sdc train`, such a name with -asymmetric or -tables (the query in float, by its outputs or by what "
    "codes decode to) or -reranked (candidates in the order of features on disk), pq, rq, lsq, rabitq to rabitq4, "
    "ivfpq, sign-full-reranked, int8, hnsw and float16.",
)
@click.option("--queries", type=int, default=CompareSettings.queries, show_default=True, help="At most so many.")
@click.option("--limit", type=int, help="A sample of so many vectors of the database.  [default: all]")
@click.option("--seed", type=int, default=CompareSettings.seed, show_default=True)
@click.option("--quick", is_flag=True, help="A first look: fewer methods and queries, short trainings and timings.")
@out_folder(CompareSettings.out)
@overwrite
@as_json
def compare(as_json: bool, **options: Any) -> None:
    """Compare SDC with ITQ, sign, PQ, RaBitQ and float16 on your vectors, and say when it is not the best choice.

    \b
    The folder gets results.md (advice, then tables), results.csv, results.json, frontier.png and plot.png:
    recall of the exact neighbours, mAP where there are labels, bytes, build time and latency.
    """
    from sdc.compare import TABLE, read_comparison
    from sdc.compare import compare as run

    path = run(CompareSettings(**options))
    if as_json:
        print_json({"out": str(path), **read_comparison(path)})
    else:
        click.echo((path / TABLE).read_text(encoding="utf-8"), nl=False)
