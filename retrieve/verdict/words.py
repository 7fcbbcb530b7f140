"""A verdict in words: five lines, the advice, and the warnings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdc.retrieve.verdict.figures import Figures, Warned

ENOUGH = 0.95  # recall that leaves nothing to do
_LARGE = 0.25  # share of the items whose features are compared from which on the codes hardly tell neighbors apart


def verdict_lines(figures: Figures) -> list[str]:
    """Five lines, and one more for each warning."""
    size = f"size       {figures.bytes} bytes a vector"
    if figures.feature_bytes:
        ratio = figures.feature_bytes / figures.bytes
        size += (
            f", {ratio:,.{0 if ratio >= 10 else 1}f} times smaller than its features ({figures.feature_bytes:,} bytes)"
        )
    how = {"codes": "by codes alone", "reranked": "re-ranked"}
    times = ", ".join(f"{_short(value)} ms {how[name]}" for name, value in figures.milliseconds.items())
    return [
        size,
        *_recall(figures),
        f"latency    {times}: median of single queries",
        f"too little? {advice(figures)}",
        *(f"warning: {each.message}" for each in figures.warned),
    ]


def verdict_json(figures: Figures) -> dict[str, Any]:
    """The same, for the key `verdict`."""
    return {
        **asdict(figures),
        "smaller": figures.feature_bytes / figures.bytes if figures.feature_bytes else None,
        "advice": advice(figures),
        "warned": [each._asdict() for each in figures.warned],
    }


def advice(figures: Figures) -> str:
    """What to do where the recall is too low: a rule on the figures."""
    recall, longer = figures.recall, 2 * figures.bits
    if recall is None:
        return "put model and features back where they were, or name them (--model, --features): then recall is known"
    if recall.codes >= ENOUGH:
        return "codes alone find nearly all; shorter ones (`sdc train --bits`) may do"
    steps = []
    if recall.shortlist <= _LARGE * recall.items:
        steps.append(f"`sdc search --rerank auto` compares the features of so many items that it finds {ENOUGH:.0%}")
    if longer <= (figures.dimension or 0):
        steps.append(f"`sdc train --bits {longer}` for more by codes alone")
    if figures.method != "neighbors":
        steps.append("`sdc train --goal neighbors` where exact neighbours count")
    return "; ".join(steps) or "`sdc compare` shows what other codes of this size find"


def equal_codes(items: int, distinct: int, most: int, method: str | None) -> Warned:
    """Most items have one code."""
    remedy = (
        "sign does not centre the features: `sdc train --method itq` does"
        if method == "sign"
        else ("look whether the features are equal too (`sdc diagnose`); else train on features like these")
    )
    return Warned(
        "equal_codes",
        f"{most:,} of {items:,} codes are equal ({distinct:,} distinct), and a search cannot tell their items apart: "
        f"{remedy}",
    )


def stale(what: str, path: Path, index: Path | None) -> Warned:
    """The model or the features are not those of the index."""
    made = "trained" if what == "model" else "made"
    return Warned(
        f"other_{what}",
        f"{path} was {made} anew since {index} was encoded, which still has the codes from before: `sdc encode "
        "--overwrite`",
    )


def itq_as_well(ours: float, theirs: float) -> Warned:
    """ITQ would do, by the recall of codes alone."""
    return Warned(
        "itq_as_well",
        f"ITQ, which is fitted in a second, finds {theirs:.3f} by codes alone, these find {ours:.3f}: take `sdc train "
        "--method itq`, or train longer",
    )


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def _recall(figures: Figures) -> list[str]:
    recall = figures.recall
    if recall is None:
        return [f"recall     not measured: {figures.missing}", "re-ranked  not measured"]
    of = f"{recall.queries} queries, {recall.items:,} items"
    if recall.items < figures.count:
        of += f" sampled of {figures.count:,}, among all of which it is lower"
    return [
        f"recall@{recall.k:<3} {recall.codes:.3f} by codes alone ({of})",
        f"re-ranked  {recall.reranked:.3f} by the features of {recall.shortlist:,} items, of {recall.candidates:,} "
        "candidates by codes",
    ]
