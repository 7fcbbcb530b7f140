"""Builds all contenders of `sdc compare` on one feature store and measures them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sdc.compare.contender import RERANKED, TABLES, Contender
from sdc.compare.contenders import (
    LENGTHLESS,
    QUANTIZERS,
    Asymmetric,
    Codes,
    Decoded,
    base_method,
    quantize,
)
from sdc.compare.measurements import SECONDS, Contest, Scores, Timings, score, time_queries
from sdc.compare.reranked import TwoStages
from sdc.compare.results import Latency, Mean, Result, near_cutoff
from sdc.compare.whole_vectors import WHOLE, build_whole
from sdc.errors import SdcError, log
from sdc.extract.store import FeatureStore
from sdc.kernels import table_scores
from sdc.train import CodeTables, Model, fit_code_tables, make_recipe
from sdc.train.methods import ClosedForm, load_method

_TIMED = 1000  # queries that single ones are taken from for timing, at most
_QUICK_BUDGET, _QUICK_SECONDS = 5.0, 0.5  # seconds that a head is trained for, and a contender timed


@dataclass(frozen=True, eq=False)
class _Entry:
    """A contender, the time to build it, and its scores."""

    method: str
    bits: int | None
    contender: Contender
    seconds: float
    locality: float | None
    scores: Scores


Head = tuple[Codes, float, float | None]  # codes, seconds to build them, locality


def measure(
    contest: Contest, methods: Sequence[str], lengths: Sequence[int], seed: int, *, quick: bool = False
) -> list[Result]:
    """All results: the methods at each length, in their order, and those that have no length at the end.

    A method that can't be built has a result that says why.
    """
    if any(name not in QUANTIZERS for name in methods):
        _warm_up()
    budget, seconds = (_QUICK_BUDGET, _QUICK_SECONDS) if quick else (0.0, SECONDS)
    outcomes: list[_Entry | Result] = []
    for bits in lengths:
        heads: dict[str, Head] = {}
        outcomes += [_enter(name, bits, seed, budget, contest, heads) for name in methods if name not in LENGTHLESS]
    outcomes += [_enter(name, None, seed, budget, contest, {}) for name in methods if name in LENGTHLESS]
    entries = [one for one in outcomes if isinstance(one, _Entry)]
    features, near = contest.store.take(contest.queries[:_TIMED]), near_cutoff(contest.cutoffs)
    timed = time_queries([one.contender for one in entries], features, near, seconds)
    timings = dict(zip(entries, timed, strict=True))
    return [one if isinstance(one, Result) else _result(one, timings[one], entries, near) for one in outcomes]


def _result(entry: _Entry, timings: Timings, entries: Sequence[_Entry], near: int) -> Result:
    contender, scores = entry.contender, entry.scores
    return Result(
        method=entry.method,
        bits=entry.bits,
        query=contender.query,
        bytes=contender.bytes,
        disk=contender.disk or contender.bytes,
        recall={k: Mean.of(values) for k, values in scores.recall.items()},
        map=None if scores.ap is None else Mean.of(scores.ap),
        above={
            other.method: _above(scores, other.scores, near)
            for other in entries
            if other.bits in (entry.bits, None) and other is not entry
        },
        build=entry.seconds,
        latency=Latency.of(timings.encode, timings.search),
        locality=entry.locality,
    )


def _above(scores: Scores, others: Scores, near: int) -> dict[str, Mean]:
    """The mean difference of two contenders' scores over the queries."""
    differences = {"recall": Mean.of(scores.recall[near] - others.recall[near])}
    if scores.ap is not None and others.ap is not None:
        differences["map"] = Mean.of(scores.ap - others.ap)
    return differences


def _warm_up() -> None:
    """Trains once, so that no method's time includes what is loaded and built at the first training."""
    from sdc.train.loop import fit

    table, code = np.zeros((1, 256), np.float32), np.zeros((1, 1), np.uint8)
    table_scores(table, 0.0, code, code[0], table[0])
    features = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    fit(features, np.arange(32), make_recipe(bits=8, epochs=1, batch_size=8))


def _enter(
    name: str, bits: int | None, seed: int, budget: float, contest: Contest, heads: dict[str, Head]
) -> _Entry | Result:
    """Builds and scores one contender.

    Args:
        budget: seconds that a head may be trained for; 0 sets no limit.
        heads: codes of this length that were made already, by method; they are not made again.
    """
    label = name if bits is None else f"{name}, {bits} bits"
    log.info("%s", label)
    base, locality, before = base_method(name), None, 0.0
    started = time.monotonic()
    contender: Contender
    try:
        if name in QUANTIZERS:
            train = contest.store.splits["train"]
            build = build_whole if name in WHOLE else quantize
            contender = build(name, contest.store, train, contest.database, (bits or 0) // 8, seed)
        else:
            if base not in heads:
                method, length = (base, bits) if bits else ("sign", contest.store.dimension // 8 * 8)
                model, locality = _train(method, length, seed, budget, contest.store)
                codes = Codes.encode(model, contest.store, contest.database)
                heads[base] = codes, time.monotonic() - started, locality
                started = time.monotonic()
            codes, before, locality = heads[base]
            if name.endswith(TABLES):
                contender = Decoded(_tables(codes.model, contest.store, seed).decoder, codes.codes)
            elif name.endswith(RERANKED):
                contender = TwoStages(codes.model, codes.codes, contest.store, contest.database)
            else:
                contender = codes if name == base else Asymmetric(codes)
    except SdcError as error:
        if error.exit_code == 130:  # interrupted
            raise
        log.warning("%s: %s", label, error)
        return Result(name, bits, refused=str(error))
    seconds = before + time.monotonic() - started
    return _Entry(name, bits, contender, seconds, locality, score(contender, contest, name))


def _train(method: str, bits: int, seed: int, budget: float, store: FeatureStore) -> tuple[Model, float | None]:
    """A head of the preset `default`, with the byte tables it asks for, and its locality."""
    from sdc.train.loop import fit

    rows, recipe = store.splits["train"], make_recipe(method=method, bits=bits, seed=seed)
    if budget and not isinstance(load_method(method), ClosedForm):
        recipe = replace(recipe, budget=budget)
    tensors, summary = fit(
        store.features, rows, recipe, views=store.views, extras={"tokens": store.tokens, "labels": store.labels}
    )
    model = Model(tensors, {"method": method})
    tables = fit_code_tables(model.outputs, store.features, rows, recipe)
    return Model(tensors, model.metadata, tables), summary.get("locality")


def _tables(model: Model, store: FeatureStore, seed: int) -> CodeTables:
    """The model's byte tables, or those that fit its codes."""
    if model.tables is not None:
        return model.tables
    rows, recipe = store.splits["train"], make_recipe(method="itq", bits=model.bits, seed=seed, tables=True)
    tables = fit_code_tables(model.outputs, store.features, rows, recipe)
    if tables is None:
        raise SdcError(f"the train split has {len(rows)} rows, too few to fit byte tables to")
    return tables
