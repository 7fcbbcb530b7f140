"""The command search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sdc.commands.options import ID, PATH, Parsed, as_json, verify
from sdc.commands.printing import print_json
from sdc.errors import UsageError
from sdc.retrieve import SearchSettings
from sdc.retrieve.engines import is_url
from sdc.retrieve.features import PRECISIONS
from sdc.retrieve.index import search_option_help
from sdc.retrieve.rerank import READINGS, RECALL, Factor, shortlist_size


def _factor(text: str) -> Factor:
    """A number from 1 on, or auto."""
    if text == "auto":
        return "auto"
    try:
        factor = float(text)
        shortlist_size(1, factor, 1)
    except UsageError as error:
        raise ValueError(text) from error
    return factor


_SHOWN = 60  # characters of a text
_FACTOR = Parsed(_factor, ": expected a number from 1 on, or auto")
_FILE_OR_URL = Parsed(lambda text: text if is_url(text) else Path(text))  # a path would swallow one of a URL's slashes


@click.command()
@click.option(
    "--index",
    type=_FILE_OR_URL,
    metavar="FILE|URL",
    default=str(SearchSettings.index),
    show_default=True,
    help="A db.bin, or where `sdc push` put its codes.",
)
@click.option("--queries", type=PATH, metavar="FILE", help="Query vectors, in any format `sdc import` reads.")
@click.option("--image", "images", type=PATH, multiple=True, metavar="FILE", help="An image; may be repeated.")
@click.option(
    "--id",
    "ids",
    type=ID,
    metavar="TEXT",
    multiple=True,
    help="An item of the database or the query split; may be repeated.",
)
@click.option("--limit", type=int, help="At most so many queries.  [default: 10 of the query split; all with --json]")
@click.option("-k", "k", type=int, default=SearchSettings.k, show_default=True, help="Neighbours a query.")
@click.option("--radius", type=int, help="All within this Hamming distance, instead of the k nearest: exact.")
@click.option("--only-ids", type=PATH, metavar="FILE", help="Search the ids in FILE alone, one a line.")
@click.option(
    "--only-label",
    "only_labels",
    multiple=True,
    metavar="NAME|NUMBER",
    help="Search this class alone; may be repeated.",
)
@click.option(
    "--rerank",
    type=_FACTOR,
    metavar="FACTOR|auto",
    help="Compare the features of FACTOR times k items that the codes put first, and order by their cosine.  "
    "auto: measure once which factor reaches --recall.  Without features at hand: a finer order by codes alone.",
)
@click.option(
    "--query",
    type=click.Choice(READINGS),
    help="Compare codes with codes, or queries in float with what the codes decode to: as fast, and more of the "
    "features' nearest are found.  [default: float, where the model has byte tables and the queries' features are at "
    "hand; --explain says]",
)
@click.option(
    "--recall",
    type=float,
    help="With --rerank auto, of the features' nearest.  With --query float, of what scoring every code finds; 1 "
    f"scores every code.  [default: {RECALL}]",
)
@click.option(
    "--features",
    type=PATH,
    help="The features that were encoded, for --rerank and --query float.  [default: where they were]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=SearchSettings.precision,
    show_default=True,
    help="Of the features for --rerank: as they are stored, or a copy beside them, made once, that is a half or a "
    "quarter of 32-bit features to read.",
)
@click.option("--nprobe", type=int, help=search_option_help("nprobe"))
@click.option("--model", type=PATH, help="The model that encoded the index.  [default: where it was then]")
@click.option("--weights", metavar="FILE|random:SEED", help="The backbone's weights, for --image.")
@click.option("--explain", is_flag=True, help="Say how the search is carried out, and why.")
@verify(SearchSettings.verify, "the index")
@as_json
def search(as_json: bool, **options: Any) -> None:
    """Find the nearest codes of queries.

    Without --queries, --image or --id the query split is searched.  With --id an item is searched by its stored code.
    Its vector or its image may be at a distance above 0 from it, where codes are refined: see `sdc encode --help`.
    """
    if is_url(options["index"]):
        from sdc.retrieve.engines import search_engine as find
    else:
        from sdc.retrieve import search_index as find

    named = options["queries"] or options["images"] or options["ids"]
    if options["limit"] is None and not named and not as_json:
        options["limit"] = 10
    answer = find(SearchSettings(**options))
    if as_json:
        print_json(answer)
        return
    for result in answer["results"]:
        neighbors = "  ".join(f"{n['id']} ({_nearness(n)}{_class(n)}){_text(n)}" for n in result["neighbors"])
        click.echo(f"{result['query']}: {neighbors or 'nothing'}")


def _nearness(neighbor: dict[str, Any]) -> str:
    """What the order goes by: the Hamming distance, or the similarity of reranking."""
    return next(
        (f"{neighbor[name]:.4f}" for name in ("similarity", "score") if name in neighbor), str(neighbor["distance"])
    )


def _text(neighbor: dict[str, Any]) -> str:
    """The beginning of its text, where it has one."""
    words = " ".join(neighbor.get("text", "").split())
    return f" {words if len(words) <= _SHOWN else words[: _SHOWN - 1] + '…'}" if words else ""


def _class(neighbor: dict[str, Any]) -> str:
    """The name of its class, or the names of all of them, where classes have names."""
    names = neighbor.get("class")
    return "".join(f", {name}" for name in (names if isinstance(names, list) else [names]) if name is not None)
