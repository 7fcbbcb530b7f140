"""Advice from the results of `sdc compare`: which method to choose, and where SDC is not the best choice.

One method is clearly above another where the mean of their difference over the queries is more than two of its
standard errors; otherwise the two are level.

Methods of SDC's bytes are compared with SDC. Codes that are read with one byte more, for the length of what they decode
to, are compared with each other, and so is the goal neighbors with the codes that are searched by Hamming distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sdc.compare.contender import ASYMMETRIC, TABLES
from sdc.compare.results import Result, near_cutoff

LEAD, IN_FLOAT, FLOAT = "sdc", f"sdc{ASYMMETRIC}", "float16"
NEIGHBORS, DECODED = "neighbors", f"neighbors{TABLES}"
ADDITIVE = ("rq", "lsq")
NAMES = {
    "sdc": "SDC",
    "neighbors": "`--goal neighbors`",
    "itq": "ITQ",
    "random-rotation": "random rotation",
    "pq": "PQ",
    "rq": "RQ",
    "lsq": "LSQ",
    "rabitq": "RaBitQ",
}
ENOUGH = 0.5  # recall below which codes alone do not find the neighbours
FAST, SMALL = 10.0, 1 << 30  # milliseconds a query and bytes in all, up to which nothing needs to be compressed

Score = Literal["recall", "map"]


@dataclass(frozen=True)
class Advice:
    """Advice for one length of code.

    Attributes:
        bits: the length.
        neighbors: of the methods of at most SDC's bytes the one that finds most of the nearest neighbours, and those
            that are level with it.
        labels: the same by mAP; none without labels.
        text: sentences.
    """

    bits: int
    neighbors: list[str]
    labels: list[str]
    text: list[str]


def advise(results: Sequence[Result], database: int) -> Advice | None:
    """Advice from the results of one length, float16 among them.

    Args:
        database: how many vectors were searched.

    Returns:
        None where neither SDC nor the goal neighbors is among the results.
    """
    measured = {result.method: result for result in results if not result.refused}
    lead = measured.get(LEAD) or measured.get(NEIGHBORS)
    if lead is None or lead.bits is None or lead.bytes is None:
        return None
    fitting = [result for result in results if result.bits and result.bytes and result.bytes <= lead.bytes]
    k = near_cutoff(list(lead.recall))
    neighbors, labels = _best(fitting, "recall"), _best(fitting, "map") if lead.map else []
    text = _on_neighbors(lead, fitting, neighbors, k) if lead.method == LEAD else []
    if NEIGHBORS in measured:
        text += _on_the_goal(measured[NEIGHBORS], fitting, k)
    text += _on_decoded(measured, lead.bytes + 1, k)
    if labels and lead.method == LEAD:
        text += _on_labels(lead, fitting, neighbors, labels)
    text += _on_what_is_missing(neighbors[0], k)
    text += _on_float(results, lead, database)
    return Advice(lead.bits, [one.method for one in neighbors], [one.method for one in labels], text)


def _on_neighbors(lead: Result, fitting: Sequence[Result], best: Sequence[Result], k: int) -> list[str]:
    nearest, lead_recall, top = _nearest(k), f"{_value(lead, 'recall'):.3f}", best[0]
    size = f"at {lead.bytes} bytes a vector"
    if lead in best:
        level = _level_with(lead, [one for one in best if one is not lead])
        return [f"{size.capitalize()} no method finds clearly more of {nearest} than SDC, {lead_recall}{level}."]
    cost, in_float = _cost(top, lead), next((one for one in fitting if one.method == IN_FLOAT), None)
    if in_float in best:
        verb = "finds" if len(best) == 1 else "find"
        sentences = [
            f"{size.capitalize()} {_with_values(best, 'recall')} {verb} most of {nearest}, SDC by Hamming distance "
            f"{lead_recall}{f'; {_name(top)} takes {cost}' if cost else ''}."
        ]
    else:
        sentences = [
            f"SDC is not the best choice for exact neighbours here: {size} it finds {lead_recall} of {nearest}, "
            f"{_with_values(best, 'recall')}{f', at {cost}' if cost else ''}."
        ]
    if in_float and _clearly_above(in_float, lead, "recall"):
        recall_text = "" if in_float in best else f", which finds {_value(in_float, 'recall'):.3f}"
        sentences.append(
            f"`sdc search --rerank` compares a shortlist of SDC's codes with the query in float{recall_text}; then the "
            "shortlist's features, where they are at hand."
        )
    by_hamming = _best([one for one in fitting if one.query == lead.query], "recall")
    if lead in by_hamming:
        sentences.append("Of the codes compared by Hamming distance none finds clearly more than SDC.")
        return sentences
    if by_hamming[0] is not top:
        sentences.append(f"Of the codes compared by Hamming distance the best: {_with_values(by_hamming, 'recall')}.")
    if lead.locality:
        sentences.append(
            f"SDC was trained with locality {lead.locality:.2g}, which keeps items of a kind together at the cost of "
            "exact neighbours: `sdc train --locality 0` turns that off."
        )
    return sentences


def _on_the_goal(goal: Result, fitting: Sequence[Result], k: int) -> list[str]:
    """Whether the goal neighbors finds most by Hamming distance."""
    by_hamming = [one for one in fitting if one.query == goal.query]
    best = _best(by_hamming, "recall")
    others = sorted((one for one in by_hamming if one is not goal), key=lambda one: -_value(one, "recall"))
    recall_text = f"finds {_value(goal, 'recall'):.3f} of {_nearest(k)} by Hamming distance"
    if not others:
        return []
    if best == [goal]:
        return [f"{_name(goal)} {recall_text}, more than any other codes; next {_with_values(others[:1], 'recall')}."]
    if goal in best:
        level = [one for one in best if one is not goal]
        return [f"{_name(goal)} {recall_text}; {_with_values(level, 'recall')} {_are(level)} level with it."]
    return [f"{_name(goal)} does not lead here: it {recall_text}, {_with_values(best, 'recall')}."]


def _on_decoded(measured: Mapping[str, Result], size: int, k: int) -> list[str]:
    """How the goal neighbors' codes do among what is scored by decoding, its length byte counted."""
    ours = measured.get(DECODED)
    fitting = [one for one in measured.values() if one.query == "float" and one.bits and (one.bytes or 0) <= size]
    if ours is None or ours not in fitting or len(fitting) == 1:
        return []
    best = _best(fitting, "recall")
    text = f"With the query in float, at no more than {size} bytes a vector, "
    others = sorted((one for one in fitting if one is not ours), key=lambda one: -_value(one, "recall"))
    if best == [ours]:
        text += (
            f"{_with_values([ours], 'recall')} finds most of {_nearest(k)}; next {_with_values(others[:1], 'recall')}."
        )
    elif ours in best:
        level = [one for one in best if one is not ours]
        text += f"no method finds clearly more of {_nearest(k)} than {_with_values([ours], 'recall')}; "
        text += f"{_with_values(level, 'recall')} {_are(level)} level with it."
    else:
        text += f"{_name(ours)} does not lead: it finds {_value(ours, 'recall'):.3f} of {_nearest(k)}, "
        text += f"{_with_values(best, 'recall')}."
    if not set(ADDITIVE) & set(measured):
        return [text, "FAISS' additive quantizers, slower to build, may find more: `--methods` takes rq and lsq."]
    if any(one.method in ADDITIVE for one in best):
        return [text, "RQ and LSQ have no codes that can be searched by Hamming distance."]
    return [text]


def _level_with(lead: Result, level: Sequence[Result]) -> str:
    """Names the methods that find as much as SDC, and the one of them that is built sooner."""
    if not level:
        return ""
    text = f"; {_with_values(level, 'recall')} {_are(level)} level with it"
    quick = min(level, key=lambda one: one.build or 0)
    if quick.build is not None and lead.build is not None and quick.build < lead.build / 2:
        text += f", and {_name(quick)} is built in {quick.build:.1f} s instead of {lead.build:.1f} s"
    return text


def _on_labels(
    lead: Result, fitting: Sequence[Result], neighbors: Sequence[Result], labels: Sequence[Result]
) -> list[str]:
    """Advice by mAP. A query in float against SDC's codes counts as SDC too."""
    in_float = next((one for one in fitting if one.method == IN_FLOAT), None)
    ours = [one for one in fitting if one in (lead, in_float)]
    others = [one for one in labels if one not in ours]
    lead_map = f"{_value(lead, 'map'):.3f}"
    if in_float and _clearly_above(in_float, lead, "map"):
        lead_map += f", {_value(in_float, 'map'):.3f} with the query in float"
    if others == [*labels]:
        verb, too = "is" if len(others) == 1 else "are", " too" if labels[0] is neighbors[0] else ""
        return [f"By labels {_list(map(_name, others))} {verb} best{too}: mAP {_values(others)}; SDC {lead_map}."]
    if others:
        level = _list([*map(_name, others), "SDC"])
        text = f"By labels {level} are level: mAP {_values(others)}; SDC {lead_map}."
    else:
        rest = sorted((one for one in fitting if one not in ours), key=lambda one: -_value(one, "map"))
        following = f"; next {_name(rest[0])} {_values(rest[:1])}" if rest else ""
        text = f"By labels SDC is the best choice: mAP {lead_map}{following}."
    if any(one in ours for one in neighbors):
        return [text]
    first = neighbors[0]
    if first in others:
        return [text, f"So {_name(first)} is the better choice where its price suits: it loses nothing by labels."]
    kind = _list([*map(_name, others), "SDC"])
    return [text, f"So: {_name(first)} where the very nearest vectors count, {kind} where items of the same kind do."]


def _on_what_is_missing(best: Result, k: int) -> list[str]:
    if _value(best, "recall") >= ENOUGH:
        return []
    return [
        f"No method of this size finds half of {_nearest(k)}: take longer codes (--bits), or let "
        "`sdc search --rerank auto` look at the features of a shortlist."
    ]


def _on_float(results: Sequence[Result], lead: Result, database: int) -> list[str]:
    plain = next((result for result in results if result.method == FLOAT and not result.refused), None)
    if plain is None or plain.bytes is None or plain.latency is None:
        return []
    size, milliseconds = plain.bytes * database, plain.latency.total[0]
    if milliseconds > FAST or size > SMALL:
        return []
    text = f"With {database:,} vectors float16 takes {size / 1e6:,.0f} MB and {milliseconds:.1f} ms a query, and loses "
    if lead.map and plain.map and _clearly_above(lead, plain, "map"):
        return [
            f"{text}next to no neighbours: if that is small and fast enough, no codes are needed for these. By labels "
            f"SDC's codes are better than the features themselves: mAP {lead.map.value:.3f}, float16 "
            f"{plain.map.value:.3f}."
        ]
    return [f"{text}next to nothing: if that is small and fast enough, no codes are needed."]


def _best(results: Sequence[Result], score: Score) -> list[Result]:
    """The method with the highest score and those that are level with it, in falling order."""
    top, *others = sorted(results, key=lambda result: -_value(result, score))
    return [top, *(other for other in others if not _clearly_above(top, other, score))]


def _clearly_above(one: Result, other: Result, score: Score) -> bool:
    return one.above[other.method][score].sign > 0


def _value(result: Result, score: Score) -> float:
    mean = result.map if score == "map" else result.recall[near_cutoff(list(result.recall))]
    assert mean is not None
    return mean.value


def _cost(one: Result, lead: Result) -> str:
    """How much longer it takes than SDC, such as "2.1 × the time of a query and 3 × the time to build"."""
    costs = {}
    if one.latency and lead.latency:
        costs["of a query"] = one.latency.total[0] / lead.latency.total[0]
    if one.build and lead.build:
        costs["to build"] = one.build / lead.build
    return " and ".join(f"{ratio:.2g} × the time {what}" for what, ratio in costs.items() if not 0.8 < ratio < 1.25)


def _nearest(k: int) -> str:
    return f"the {k} nearest neighbours" if k > 1 else "the nearest neighbours"


def _name(result: Result) -> str:
    for ending, words in ((ASYMMETRIC, "with the query in float"), (TABLES, "read by byte tables")):
        if result.method.endswith(ending):
            base = result.method.removesuffix(ending)
            return f"{NAMES.get(base, base)} {words}"
    return NAMES.get(result.method, result.method)


def _are(results: Sequence[Result]) -> str:
    return "is" if len(results) == 1 else "are"


def _values(results: Sequence[Result]) -> str:
    return _list([f"{_value(result, 'map'):.3f}" for result in results])


def _with_values(results: Sequence[Result], score: Score) -> str:
    return _list([f"{_name(result)} {_value(result, score):.3f}" for result in results])


def _list(names: Iterable[str]) -> str:
    """Names as a text: A, B and C."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
