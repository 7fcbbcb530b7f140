"""`sdc compare`: SDC against other ways to keep vectors in as many bytes, on the user's own features.

Everything is trained on the same rows, those of the train split (heads of the goal neighbors too), holds the same
database and is asked the same queries. The folder it
fills: results.json (the JSON of the command, and the settings it was made with), results.csv (a row a result),
results.md (tables and advice) and plot.png.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sdc._version import __version__
from sdc.compare.advice import Advice, advise
from sdc.compare.columns import csv_row, json_record, table
from sdc.compare.contenders import check_method
from sdc.compare.frontier import draw_frontier
from sdc.compare.measurements import Contest
from sdc.compare.results import Result, draw, near_cutoff, of_length
from sdc.compare.runner import measure
from sdc.devices import MOST_SEED, cpu_count
from sdc.errors import SdcError, UsageError, log
from sdc.experiments import write_csv
from sdc.extract import stratified
from sdc.extract.store import NO_LABEL, FeatureStore, Listing
from sdc.files import atomic_write, check_output_folder, check_same_settings, explain_os_errors, json_text
from sdc.retrieve import check_bits
from sdc.retrieve.evaluate import share_label
from sdc.retrieve.features import CUTOFFS, nearest
from sdc.retrieve.index import faiss_module, own_positions

JSON, CSV, TABLE, PLOT, FRONTIER = "results.json", "results.csv", "results.md", "plot.png", "frontier.png"
_QUICK_QUERIES = 200


@dataclass(frozen=True)
class CompareSettings:
    """What `sdc compare` does; the defaults are the command's.

    Attributes:
        features: the feature store, with rows in all three splits.
        bits: lengths of code; other methods get as many bytes.
        methods: of `sdc.train.methods.METHODS`, which take the preset `default`; such a name with an ending:
            `-asymmetric` compares the same codes with the query's real outputs, `-tables` the query in float with what
            they decode to; and `sdc.compare.contenders.QUANTIZERS`.
        queries: of the query split, at most so many, drawn at random.
        limit: of the database, at most so many, spread over the classes; None takes all.
        seed: of all that is drawn, and of the methods.
        out: the folder to fill.
        overwrite: replace an `out` that was made with other settings.
        quick: a first look in about a minute: fewer queries, a few seconds for each head that is trained, and each
            method timed for half a second; `methods` that are left as they are become those of `QUICK`.
    """

    features: Path = Path("feats.h5")
    bits: tuple[int, ...] = (64,)
    methods: tuple[str, ...] = (
        "sdc", "sdc-asymmetric", "neighbors", "neighbors-tables", "neighbors-reranked", "itq", "sign",
        "random-rotation", "pq", "rq", "lsq", "rabitq", "rabitq2", "rabitq3", "rabitq4", "ivfpq", "sign-full-reranked",
        "int8", "hnsw", "float16",
    )  # fmt: skip
    queries: int = 1000
    limit: int | None = None
    seed: int = 0
    out: Path = Path("comparison")
    overwrite: bool = False
    quick: bool = False

    def as_measured(self) -> CompareSettings:
        """Themselves, or what `quick` makes of them."""
        if not self.quick:
            return self
        methods = QUICK if self.methods == CompareSettings.methods else self.methods
        return replace(self, methods=methods, queries=min(self.queries, _QUICK_QUERIES))


QUICK = (
    "neighbors", "neighbors-reranked", "itq", "itq-reranked", "pq", "rabitq", "ivfpq", "sign-full-reranked", "int8",
    "hnsw", "float16",
)  # fmt: skip


def compare(settings: CompareSettings) -> Path:
    """Compares methods on one feature store; nothing is written before all is measured.

    Returns:
        The folder.

    Raises:
        SdcError: the features are missing or damaged, a split is empty, or the folder cannot be written.
        UsageError: an unknown method or a bad number, no method that can be compared, or a folder of other settings or
            with something else in it.
    """
    settings = settings.as_measured()
    _check(settings)
    store = FeatureStore(settings.features)
    for split in ("train", "query", "database"):
        if not len(store.splits[split]):
            raise SdcError(
                f"{settings.features} has no rows in its {split} split: make features that have (see `sdc import`)"
            )
    expected = _recorded_settings(settings, store)
    if _is_there(settings, expected):
        return settings.out
    contest = _contest(settings, store)
    results = measure(contest, settings.methods, settings.bits, settings.seed, quick=settings.quick)
    if all(result.refused for result in results):
        raise UsageError(f"none of these methods can be compared; {results[0].method}: {results[0].refused}")
    with_advice = [advise(of_length(results, bits), len(contest.database)) for bits in settings.bits]
    _write(settings, contest, results, [advice for advice in with_advice if advice], expected)
    return settings.out


def read_comparison(out: Path) -> dict[str, Any]:
    """The JSON of `sdc compare` from the folder it filled.

    Returns:
        features, dimension, database, train and queries (rows of each), at, cutoffs, machine, settings, results (a list
        of results with the keys of `sdc.compare.columns`), and advice (a list a length: bits, neighbors and labels, the
        best methods by either, and text, sentences).

    Raises:
        SdcError: it is not there or damaged.
    """
    path = out / JSON
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["settings"], content["results"], content["advice"]  # are they there?
    except (OSError, ValueError, KeyError, TypeError):
        raise SdcError(f"{path} is damaged or missing: remove it, and run the command again") from None
    return content


def _check(settings: CompareSettings) -> None:
    for bits in settings.bits:
        check_bits(bits)
    for name in settings.methods:
        check_method(name)
    for option, values in (("bits", settings.bits), ("methods", settings.methods)):
        if not values or len(set(values)) < len(values):
            raise UsageError(f"--{option} {','.join(map(str, values))}: expected one or more that differ")
    for option, least, value in (
        ("queries", 1, settings.queries),
        ("limit", 1, settings.limit),
        ("seed", 0, settings.seed),
    ):
        if value is not None and not least <= value <= MOST_SEED:
            raise UsageError(f"--{option} {value}: must be from {least} to {MOST_SEED}")


def _recorded_settings(settings: CompareSettings, store: FeatureStore) -> dict[str, Any]:
    fields = {name: value for name, value in vars(settings).items() if name not in ("out", "overwrite", "quick")}
    fields |= {"quick": True} if settings.quick else {}
    return {**fields, "features": store.fingerprint, "bits": list(settings.bits), "methods": list(settings.methods)}


def _is_there(settings: CompareSettings, expected: Mapping[str, Any]) -> bool:
    """Whether the folder holds results of these settings. Refuses a folder that cannot be filled."""
    out = settings.out
    check_output_folder(out, JSON, "sdc compare", {JSON, CSV, TABLE, PLOT, FRONTIER})
    if settings.overwrite or not (out / JSON).exists():
        return False
    check_same_settings(out, read_comparison(out)["settings"], expected)
    return True


def _contest(settings: CompareSettings, store: FeatureStore) -> Contest:
    """Draws queries and database, and finds the exact neighbours."""
    queries, database = store.splits["query"], store.splits["database"]
    if len(queries) > settings.queries:
        sample = np.random.default_rng(settings.seed).choice(len(queries), settings.queries, replace=False)
        queries = queries[np.sort(sample)]
    labels = store.labels
    if labels is not None and labels.ndim == 1 and (labels[queries] == NO_LABEL).any():
        labelled = queries[labels[queries] != NO_LABEL]
        log.info("%d of %d queries have no label and are left out", len(queries) - len(labelled), len(queries))
        queries, labels = (labelled, labels) if len(labelled) else (queries, None)
    if settings.limit is not None and settings.limit < len(database):
        names = [str(row) for row in database]
        listing = Listing(names, {"database": np.arange(len(database))}, None if labels is None else labels[database])
        database = database[stratified(listing, settings.limit, settings.seed)]
    own = own_positions(queries, database)
    ranked = len(database) - int((own >= 0).any())
    if not ranked:
        raise SdcError(f"{settings.features} holds nothing but the query itself: there is no ranking to compare")
    cutoffs = [k for k in CUTOFFS if k <= ranked]
    if len(cutoffs) < len(CUTOFFS):
        log.info("a query is ranked against %d items: recall stops at %d", ranked, cutoffs[-1])
    recorded = store.provenance.get("protocol") or {}
    relevant = None
    if labels is not None:
        of_queries, of_items = labels[queries], labels[database]

        def relevant(part: slice) -> np.ndarray:
            return share_label(of_queries[part], of_items)

    near = nearest(store, queries, database, own, cutoffs[-1])
    return Contest(store, queries, database, own, near, cutoffs, relevant, min(recorded.get("at") or 1000, ranked))


def _write(
    settings: CompareSettings, contest: Contest, results: Sequence[Result], advice: Sequence[Advice],
    expected: Mapping[str, Any],
) -> None:  # fmt: skip
    """Writes the folder. results.json is written last: where it is there, the folder is whole."""
    out, cutoffs, at = settings.out, contest.cutoffs, contest.at
    with explain_os_errors(out):
        out.mkdir(exist_ok=True)
        (out / JSON).unlink(missing_ok=True)
    content = {
        "features": str(settings.features),
        "dimension": contest.store.dimension,
        "database": len(contest.database),
        "train": len(contest.store.splits["train"]),
        "queries": len(contest.queries),
        "cutoffs": list(cutoffs),
        "at": at if contest.relevant else None,
        "machine": _machine(),
        "version": __version__,
        "settings": expected,
        "results": [json_record(result, cutoffs) for result in results],
        "advice": [asdict(one) for one in advice],
    }
    with atomic_write(out / PLOT) as temporary:
        draw(temporary, results, cutoffs, at)
    with atomic_write(out / FRONTIER) as temporary:
        draw_frontier(temporary, results, cutoffs)
    write_csv(out / CSV, [csv_row(result, cutoffs) for result in results])
    with atomic_write(out / TABLE) as temporary:
        temporary.write_text(_markdown(settings, content, results, advice), encoding="utf-8")
    with atomic_write(out / JSON) as temporary:
        temporary.write_text(json_text(content, indent=1), encoding="utf-8")
    log.info("%s: %d results", out, len(results))


def _machine() -> str:
    versions = f"Python {platform.python_version()}, FAISS {faiss_module().__version__}"
    return f"{cpu_count()} processors ({platform.machine()}), {versions}"


def _markdown(
    settings: CompareSettings, content: Mapping[str, Any], results: Sequence[Result], advice: Sequence[Advice]
) -> str:
    near = near_cutoff(content["cutoffs"])
    parts = [
        f"# {settings.features}: {content['dimension']} dimensions",
        f"{content['queries']:,} queries against {content['database']:,} vectors, all methods trained on the same "
        f"{content['train']:,}. Recall of the exact nearest neighbours by cosine, expected over ties; ± is the "
        "standard error over queries. query: what a query is compared as, its code (by Hamming distance) or float "
        "numbers. bytes: of a vector in memory. build: training and encoding, with all processors. Single queries in "
        "one thread, "
        f"{near} neighbour{'s' * (near > 1)}: encode is from the features to what is searched for (median), search "
        f"from there (median and 99th percentile). {content['machine']}, sdc {__version__}, seed {settings.seed}.",
    ]
    if settings.quick:
        parts.append("**A first look**: heads were trained for a few seconds alone; without `--quick` they find more.")
    for bits in settings.bits:
        parts += [f"## {bits} bits, {bits // 8} bytes"]
        parts += ["\n".join(f"- {line}" for one in advice if one.bits == bits for line in one.text)]
        parts += [table(of_length(results, bits), content["cutoffs"], content["at"] or 0)]
    figures = f"![Recall over time]({FRONTIER})", f"![Scores over bytes a vector]({PLOT})"
    return "\n\n".join([*filter(None, parts), *figures]) + "\n"
