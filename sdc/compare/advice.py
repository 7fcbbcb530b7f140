"""Advice from the results of `sdc compare`: which method to choose, and where SDC is not the best choice.

One method is clearly above another where the mean of their difference over the queries is more than two of its
standard errors; otherwise the two are level.

Methods of SDC's bytes are compared with SDC. Codes that are read with one byte more, for the length of what they decode
to, are compared with each other, and so is the goal neighbors with the codes that are searched by Hamming distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdc.compare.contender import ASYMMETRIC, RERANKED, TABLES
from sdc.compare.results import Result, near_cutoff
from sdc.compare.wording import Score, are, cost_of, listed, name_of, nearest_of, value_of, values_of, with_values

LEAD, IN_FLOAT, FLOAT = "sdc", f"sdc{ASYMMETRIC}", "float16"
NEIGHBORS, DECODED = "neighbors", f"neighbors{TABLES}"
ADDITIVE = ("rq", "lsq")
WHOLE = ("int8", "hnsw", "ivfpq", FLOAT)
LEVEL = 0.01  # of recall, within which whole vectors are compared with re-ranked codes by what they take
ENOUGH = 0.5  # recall below which codes alone do not find the neighbours
FAST, SMALL = 10.0, 1 << 30  # milliseconds a query and bytes in all, up to which nothing needs to be compressed


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
    fitting = [one for one in results if one.bits and one.bytes and one.bytes <= lead.bytes and _in_memory(one)]
    k = near_cutoff(list(lead.recall))
    neighbors, labels = _best(fitting, "recall"), _best(fitting, "map") if lead.map else []
    text = _on_neighbors(lead, fitting, neighbors, k) if lead.method == LEAD else []
    if NEIGHBORS in measured:
        text += _on_the_goal(measured[NEIGHBORS], fitting, k)
    text += _on_decoded(measured, lead.bytes + 1, k)
    if labels and lead.method == LEAD:
        text += _on_labels(lead, fitting, neighbors, labels)
    text += [*_on_reranked(results, k), *_on_what_is_missing(neighbors[0], k)]
    text += _on_float(results, lead, database)
    return Advice(lead.bits, [one.method for one in neighbors], [one.method for one in labels], text)


def _on_neighbors(lead: Result, fitting: Sequence[Result], best: Sequence[Result], k: int) -> list[str]:
    nearest, lead_recall, top = nearest_of(k), f"{value_of(lead, 'recall'):.3f}", best[0]
    size = f"at {lead.bytes} bytes a vector"
    if lead in best:
        level = _level_with(lead, [one for one in best if one is not lead])
        return [f"{size.capitalize()} no method finds clearly more of {nearest} than SDC, {lead_recall}{level}."]
    cost, in_float = cost_of(top, lead), next((one for one in fitting if one.method == IN_FLOAT), None)
    if in_float in best:
        verb = "finds" if len(best) == 1 else "find"
        sentences = [
            f"{size.capitalize()} {with_values(best, 'recall')} {verb} most of {nearest}, SDC by Hamming distance "
            f"{lead_recall}{f'; {name_of(top)} takes {cost}' if cost else ''}."
        ]
    else:
        sentences = [
            f"SDC is not the best choice for exact neighbours here: {size} it finds {lead_recall} of {nearest}, "
            f"{with_values(best, 'recall')}{f', at {cost}' if cost else ''}."
        ]
    if in_float and _clearly_above(in_float, lead, "recall"):
        recall_text = "" if in_float in best else f", which finds {value_of(in_float, 'recall'):.3f}"
        sentences.append(
            f"`sdc search --rerank` compares a shortlist of SDC's codes with the query in float{recall_text}; then the "
            "shortlist's features, where they are at hand."
        )
    by_hamming = _best([one for one in fitting if one.query == lead.query], "recall")
    if lead in by_hamming:
        sentences.append("Of the codes compared by Hamming distance none finds clearly more than SDC.")
        return sentences
    if by_hamming[0] is not top:
        sentences.append(f"Of the codes compared by Hamming distance the best: {with_values(by_hamming, 'recall')}.")
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
    others = sorted((one for one in by_hamming if one is not goal), key=lambda one: -value_of(one, "recall"))
    recall_text = f"finds {value_of(goal, 'recall'):.3f} of {nearest_of(k)} by Hamming distance"
    if not others:
        return []
    if best == [goal]:
        return [f"{name_of(goal)} {recall_text}, more than any other codes; next {with_values(others[:1], 'recall')}."]
    if goal in best:
        level = [one for one in best if one is not goal]
        return [f"{name_of(goal)} {recall_text}; {with_values(level, 'recall')} {are(level)} level with it."]
    return [f"{name_of(goal)} does not lead here: it {recall_text}, {with_values(best, 'recall')}."]


def _on_decoded(measured: Mapping[str, Result], size: int, k: int) -> list[str]:
    """How the goal neighbors' codes do among what is scored by decoding, its length byte counted."""
    ours = measured.get(DECODED)
    fitting = [one for one in measured.values() if one.query == "float" and one.bits and (one.bytes or 0) <= size]
    fitting = [one for one in fitting if _in_memory(one)]
    if ours is None or ours not in fitting or len(fitting) == 1:
        return []
    best = _best(fitting, "recall")
    text = f"With the query in float, at no more than {size} bytes a vector, "
    others = sorted((one for one in fitting if one is not ours), key=lambda one: -value_of(one, "recall"))
    if best == [ours]:
        text += (
            f"{with_values([ours], 'recall')} finds most of {nearest_of(k)}; next {with_values(others[:1], 'recall')}."
        )
    elif ours in best:
        level = [one for one in best if one is not ours]
        text += f"no method finds clearly more of {nearest_of(k)} than {with_values([ours], 'recall')}; "
        text += f"{with_values(level, 'recall')} {are(level)} level with it."
    else:
        text += f"{name_of(ours)} does not lead: it finds {value_of(ours, 'recall'):.3f} of {nearest_of(k)}, "
        text += f"{with_values(best, 'recall')}."
    if not set(ADDITIVE) & set(measured):
        return [text, "FAISS' additive quantizers, slower to build, may find more: `--methods` takes rq and lsq."]
    if any(one.method in ADDITIVE for one in best):
        return [text, "RQ and LSQ have no codes that can be searched by Hamming distance."]
    return [text]


def _level_with(lead: Result, level: Sequence[Result]) -> str:
    """Names the methods that find as much as SDC, and the one of them that is built sooner."""
    if not level:
        return ""
    text = f"; {with_values(level, 'recall')} {are(level)} level with it"
    quick = min(level, key=lambda one: one.build or 0)
    if quick.build is not None and lead.build is not None and quick.build < lead.build / 2:
        text += f", and {name_of(quick)} is built in {quick.build:.1f} s instead of {lead.build:.1f} s"
    return text


def _on_labels(
    lead: Result, fitting: Sequence[Result], neighbors: Sequence[Result], labels: Sequence[Result]
) -> list[str]:
    """Advice by mAP. A query in float against SDC's codes counts as SDC too."""
    in_float = next((one for one in fitting if one.method == IN_FLOAT), None)
    ours = [one for one in fitting if one in (lead, in_float)]
    others = [one for one in labels if one not in ours]
    lead_map = f"{value_of(lead, 'map'):.3f}"
    if in_float and _clearly_above(in_float, lead, "map"):
        lead_map += f", {value_of(in_float, 'map'):.3f} with the query in float"
    if others == [*labels]:
        verb, too = "is" if len(others) == 1 else "are", " too" if labels[0] is neighbors[0] else ""
        return [f"By labels {listed(map(name_of, others))} {verb} best{too}: mAP {values_of(others)}; SDC {lead_map}."]
    if others:
        level = listed([*map(name_of, others), "SDC"])
        text = f"By labels {level} are level: mAP {values_of(others)}; SDC {lead_map}."
    else:
        rest = sorted((one for one in fitting if one not in ours), key=lambda one: -value_of(one, "map"))
        following = f"; next {name_of(rest[0])} {values_of(rest[:1])}" if rest else ""
        text = f"By labels SDC is the best choice: mAP {lead_map}{following}."
    if any(one in ours for one in neighbors):
        return [text]
    first = neighbors[0]
    if first in others:
        return [text, f"So {name_of(first)} is the better choice where its price suits: it loses nothing by labels."]
    kind = listed([*map(name_of, others), "SDC"])
    return [text, f"So: {name_of(first)} where the very nearest vectors count, {kind} where items of the same kind do."]


def _on_what_is_missing(best: Result, k: int) -> list[str]:
    if value_of(best, "recall") >= ENOUGH:
        return []
    return [
        f"No method of this size finds half of {nearest_of(k)}: take longer codes (--bits), or let "
        "`sdc search --rerank auto` look at the features of a shortlist."
    ]


def _on_reranked(results: Sequence[Result], k: int) -> list[str]:
    """What codes find whose candidates are put in order by features on disk, and what whole vectors take for it."""
    measured = [one for one in results if not one.refused and one.latency and one.bytes]
    ours = [one for one in measured if one.method.endswith(RERANKED)]
    if not ours:
        return []
    best = max(ours, key=lambda one: value_of(one, "recall"))
    assert best.latency is not None
    text = (
        f"Re-ranked by features on disk {name_of(best)} finds {value_of(best, 'recall'):.3f} of {nearest_of(k)} with "
        f"{best.bytes:,} bytes a vector in memory, in {best.latency.total[0]:.2g} ms"
    )
    others = [
        one for one in measured if one.method in WHOLE and value_of(one, "recall") >= value_of(best, "recall") - LEVEL
    ]
    if not others:
        return [f"{text}."]
    least = min(others, key=lambda one: one.bytes or 0)
    assert least.latency is not None
    return [
        f"{text}; {name_of(least)} finds {value_of(least, 'recall'):.3f} with {least.bytes:,}, in "
        f"{least.latency.total[0]:.2g} ms."
    ]


def _in_memory(result: Result) -> bool:
    """Whether nothing but what is counted in its bytes is read."""
    return result.disk in (None, result.bytes)


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
    top, *others = sorted(results, key=lambda result: -value_of(result, score))
    return [top, *(other for other in others if not _clearly_above(top, other, score))]


def _clearly_above(one: Result, other: Result, score: Score) -> bool:
    return one.above[other.method][score].sign > 0
