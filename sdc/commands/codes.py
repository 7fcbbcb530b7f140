"""The commands about codes: encode, search, evaluate, diagnose, inspect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from sdc.commands.common import (
    PATH,
    as_json,
    encoded_features,
    features,
    lengths,
    out,
    overwrite,
    print_json,
    print_numbers,
    report,
    size,
)
from sdc.compare.run import CompareSettings
from sdc.errors import UsageError
from sdc.retrieve.diagnose.run import DiagnoseSettings
from sdc.retrieve.encode import EncodeSettings
from sdc.retrieve.engines.urls import is_url
from sdc.retrieve.evaluate.run import EvaluateSettings
from sdc.retrieve.rerank.reranker import Factor
from sdc.retrieve.rerank.scoring import shortlist_size
from sdc.retrieve.rerank.shortlist import RECALL
from sdc.retrieve.search_settings import SearchSettings


@click.command()
@features(EncodeSettings.features)
@click.option("--model", type=PATH, default=EncodeSettings.model, show_default=True)
@click.option(
    "--index-type",
    metavar="auto|flat|ivf",
    default=EncodeSettings.index_type,
    show_default=True,
    help="flat: exact search.  ivf: faster and approximate, for millions of codes.  auto: whichever reaches --recall "
    "faster, measured on these codes.",
)
@click.option(
    "--recall",
    type=float,
    default=EncodeSettings.recall,
    show_default=True,
    help="Of the 10 nearest codes, how many IVF is to find.",
)
@click.option("--memory", callback=size, metavar="SIZE", help="What searching the codes may take, e.g. 4GB.")
@click.option(
    "--recenter/--no-recenter",
    default=EncodeSettings.recenter,
    help="Take the batch norm's mean from the database instead of the training set, for a database unlike it.  "
    "[default: for models of the preset paper-instance]",
)
@out(EncodeSettings.out)
@overwrite
@as_json
def encode(as_json: bool, **options: Any) -> None:
    """Encode the database split into a searchable index of binary codes."""
    from sdc.retrieve.encode import run

    report(run(EncodeSettings(**options)), as_json)


def _factor(context: click.Context, parameter: click.Parameter, text: str | None) -> Factor | None:
    """A number from 1 on, or auto."""
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    try:
        factor = float(text)
        shortlist_size(1, factor, 1)
    except (ValueError, UsageError):
        raise click.BadParameter(f"{text!r}: expected a number from 1 on, or auto") from None
    return factor


def _file_or_url(context: click.Context, parameter: click.Parameter, text: str) -> Path | str:
    """A path, which would swallow one of a URL's slashes, or a URL as it is."""
    return text if is_url(text) else Path(text)


@click.command()
@click.option(
    "--index",
    callback=_file_or_url,
    metavar="FILE|URL",
    default=str(SearchSettings.index),
    show_default=True,
    help="A db.bin, or where `sdc push` put its codes.",
)
@click.option("--queries", type=PATH, metavar="FILE", help="Query vectors, in any format `sdc import` reads.")
@click.option("--image", "images", type=PATH, multiple=True, metavar="FILE", help="An image; may be repeated.")
@click.option("--id", "ids", multiple=True, help="An item of the database or the query split; may be repeated.")
@click.option("--limit", type=int, help="At most so many queries.  [default: 10 of the query split; all with --json]")
@click.option("-k", "k", type=int, default=SearchSettings.k, show_default=True, help="Neighbours a query.")
@click.option("--radius", type=int, help="All within this Hamming distance, instead of the k nearest.")
@click.option("--only-ids", type=PATH, metavar="FILE", help="Search the ids in FILE alone, one a line.")
@click.option("--only-label", "only_labels", type=int, multiple=True, help="Search this label alone; may be repeated.")
@click.option(
    "--rerank",
    callback=_factor,
    metavar="FACTOR|auto",
    help="Compare the features of FACTOR times k items that the codes put first, and order by their cosine.  "
    "auto: measure once which factor reaches --recall.  Without features at hand: a finer order by codes alone.",
)
@click.option("--recall", type=float, help=f"Of the features' nearest, for --rerank auto.  [default: {RECALL}]")
@click.option("--features", type=PATH, help="The features that were encoded, for --rerank.  [default: where they were]")
@click.option(
    "--nprobe", type=int, help="Lists of an IVF index to scan: more find more.  [default: chosen at `sdc encode`]"
)
@click.option("--model", type=PATH, help="The model that encoded the index.  [default: where it was then]")
@click.option("--weights", metavar="FILE|random:SEED", help="The backbone's weights, for --image.")
@click.option("--explain", is_flag=True, help="Say how the search is carried out, and why.")
@click.option(
    "--verify/--no-verify",
    default=SearchSettings.verify,
    show_default=True,
    help="Check every byte of the index first.",
)
@as_json
def search(as_json: bool, **options: Any) -> None:
    """Find the nearest codes of queries.

    Without --queries, --image or --id the query split is searched.
    """
    if is_url(options["index"]):
        from sdc.retrieve.engines.search import search as find
    else:
        from sdc.retrieve.search import search as find

    named = options["queries"] or options["images"] or options["ids"]
    if options["limit"] is None and not named and not as_json:
        options["limit"] = 10
    found = find(SearchSettings(**options))
    if as_json:
        print_json(found)
        return
    for result in found["results"]:
        neighbors = "  ".join(f"{n['id']} ({_nearness(n)})" for n in result["neighbors"])
        click.echo(f"{result['query']}: {neighbors or 'nothing'}")


def _nearness(neighbor: dict[str, Any]) -> str:
    """What the order goes by: the Hamming distance, or the second stage's similarity."""
    return next(
        (f"{neighbor[name]:.4f}" for name in ("similarity", "score") if name in neighbor), str(neighbor["distance"])
    )


@click.command()
@click.option("--index", type=PATH, default=EvaluateSettings.index, show_default=True)
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
@encoded_features
@click.option("--curves", type=PATH, metavar="FILE", help="Write curves and per-query values to a .csv or .json.")
@click.option(
    "--verify/--no-verify",
    default=EvaluateSettings.verify,
    show_default=True,
    help="Check every byte of the files first.",
)
@as_json
def evaluate(as_json: bool, **options: Any) -> None:
    """Score the index on its query split: mAP over ties, precision, recall, neighbour recall.

    Landmark sets are scored by their own protocol.  The conventions that were used stand below the scores.
    """
    from sdc.retrieve.evaluate.run import evaluate as score

    found = score(EvaluateSettings(**options))
    if as_json:
        print_json(found)
        return
    print_numbers(found)


@click.command()
@click.option("--index", type=PATH, default=DiagnoseSettings.index, show_default=True)
@encoded_features
@click.option(
    "--sample", type=int, default=DiagnoseSettings.sample, show_default=True, help="Rows whose pairs are examined."
)
@click.option("--seed", type=int, default=DiagnoseSettings.seed, show_default=True)
@click.option("--out", type=PATH, metavar="FILE", help="Similarity histograms as a .png figure or a .csv table.")
@click.option(
    "--verify/--no-verify", default=DiagnoseSettings.verify, show_default=True, help="Check every byte first."
)
@as_json
def diagnose(as_json: bool, **options: Any) -> None:
    """Say whether the codes have collapsed, how, and what to change."""
    from sdc.retrieve.diagnose.run import run

    found = run(DiagnoseSettings(**options))
    if as_json:
        print_json(found)
        return
    findings, notes = found.pop("findings"), found.pop("notes")
    print_numbers(found)
    for kind, said in (("finding", findings), ("note", notes)):
        for finding in said:
            click.echo(f"{kind}: {finding['message']}")
    if not findings:
        click.echo("no sign of a collapse")


def _names(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@click.command()
@features(CompareSettings.features)
@click.option(
    "--bits",
    default=",".join(map(str, CompareSettings.bits)),
    show_default=True,
    callback=lengths,
    help="Lengths of a code, such as 64,128,256; other methods get as many bytes.",
)
@click.option(
    "--methods",
    default=",".join(CompareSettings.methods),
    show_default=True,
    callback=_names,
    help="Any of `sdc train`, such a name and -asymmetric (the query in float), pq, rabitq and float16.",
)
@click.option("--queries", type=int, default=CompareSettings.queries, show_default=True, help="At most so many.")
@click.option("--limit", type=int, help="A sample of so many vectors of the database.  [default: all]")
@click.option("--seed", type=int, default=CompareSettings.seed, show_default=True)
@click.option("--out", type=PATH, default=CompareSettings.out, show_default=True, help="Folder to fill.")
@overwrite
@as_json
def compare(as_json: bool, **options: Any) -> None:
    """Compare SDC with ITQ, sign, PQ, RaBitQ and float16 on your vectors, and say when it is not the best choice.

    \b
    The folder gets results.md (tables and advice), results.csv, results.json and plot.png:
    recall of the exact neighbours, mAP where there are labels, bytes, build time and latency.
    """
    from sdc.compare.run import TABLE, read, run

    path = run(CompareSettings(**options))
    if as_json:
        print_json({"out": str(path), **read(path)})
    else:
        click.echo((path / TABLE).read_text(encoding="utf-8"), nl=False)


@click.command()
@click.argument("file", type=PATH)
@as_json
def inspect(file: Path, as_json: bool) -> None:
    """Show what a file holds, where it came from, and whether it is whole."""
    from sdc.api import inspect as describe

    found = describe(file)
    if as_json:
        print_json(found)
    else:
        for key, value in found.items():
            click.echo(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    if not found["whole"]:
        sys.exit(1)
