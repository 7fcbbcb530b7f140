"""The command evaluate."""

from __future__ import annotations

from typing import Any

import click

from sdc.commands.options import OUTPUT, PATH, as_json, encoded_features, index, verify
from sdc.commands.printing import print_json, print_numbers, print_verdict
from sdc.retrieve.evaluate import EvaluateSettings


@click.command()
@index(EvaluateSettings.index)
@click.option("--at", type=int, help="R of mAP@R.  [default: the data set's, else 1000]")
@click.option(
    "--protocol",
    help="category: items that share a label; relevant or revisited: those that the ground truth lists.  "
    "[default: the data set's]",
)
@click.option(
    "--denominator",
    type=click.Choice(["found", "all", "capped"]),
    help="Of AP: relevant items found in the top R, all there are, or these but R at most.  "
    "[default: found; all for relevant]",
)
@click.option(
    "--no-hit",
    type=click.Choice(["zero", "skip"]),
    default=EvaluateSettings.no_hit,
    show_default=True,
    help="A query without a relevant item in the top R counts as 0, or is left out.",
)
@click.option("--neighbors", type=click.Choice(["float"]), help="Compare with the features' own cosine ranking too.")
@click.option(
    "--query",
    type=click.Choice(["code", "float"]),
    default=EvaluateSettings.query,
    show_default=True,
    help="Rank by Hamming distance, or by the query's features against what the codes decode to.",
)
@click.option("--model", type=PATH, help="The model that encoded the index, for --query float.  [default: recorded]")
@encoded_features
@click.option("--curves", type=OUTPUT, metavar="FILE", help="Write curves and per-query values to a .csv or .json.")
@verify(EvaluateSettings.verify, "the files")
@as_json
def evaluate(as_json: bool, **options: Any) -> None:
    """Score the index on its query split: mAP over ties, precision, recall, neighbour recall.

    Landmark sets are scored by their own protocol.  The conventions that were used stand below the scores, and a
    verdict, measured on a sample, ends them: size, what codes alone and re-ranked find, latency, and what to do.
    """
    from sdc.retrieve.evaluate import evaluate as score
    from sdc.retrieve.index import Index
    from sdc.retrieve.verdict import judge, verdict_json, verdict_lines

    settings = EvaluateSettings(**options)
    scores = score(settings)
    figures = judge(Index.open(settings.index, verify=False), settings.model, settings.features)
    if as_json:
        print_json({**scores, "verdict": verdict_json(figures)})
    else:
        print_numbers(scores)
    print_verdict(verdict_lines(figures), as_json)
