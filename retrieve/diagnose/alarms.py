"""What the figures of `sdc.retrieve.diagnose.run` mean, in words: alarms with what to change, and notes.

The limits were set between planted collapses and codes of 8 to 512 bits of healthy heads: SDC, ITQ, LSH and random
rotation, several seeds each, on features of an EfficientNet, pixels and handwritten digits. The worst healthy value
seen stands beside each. Left out of these: SDC at its default rate on raw pixels from 32 bits on, which gives one code
to most of a class (a tenth of the rate does not), and the constant bits of LSH on digits, which it does not centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LOPSIDED = 0.4  # share of bits whose rarer value is below 5 % (LSH of pixels, which it does not centre: 0.27)
TAIL = 1 / 8  # constant bits as a share of the lopsided ones: fewer are but the tail of them (LSH of pixels: 0.04)
COPIED = 0.15  # share of bits that copy another (SDC: 0.09 at 32 bits of pixels, 0.04 else)
EFFECTIVE_BITS = 3.0  # (4.1 for ITQ of five clusters, 5.6 else)
ALIKE = 0.7  # mean code similarity (LSH of digits, which it does not centre: 0.60)
ENOUGH = 4000  # items that need not all have codes of their own: the share of distinct codes falls with their number
CROWD = 0.05  # share of the commonest code from which on, from 32 bits, it is asked whether its items are alike
UNLIKE = 0.1  # share of pairs that are not alike among those with one code (0.05)
AGREEMENT = 0.1  # correlation of code similarity and cosine (0.23)
WITHIN = 0.08  # the same inside classes (0.15)
OVERLAP = 0.97  # of the codes' positive and negative pairs, where there are no features to compare with (0.83)
TARGET = 0.2  # W1 to the calibration on [−1, 1] (0.14)
COVERAGE = 0.9  # of the target's central 98 % by the features' own: there is little left to stretch
JUDGED = 10_000  # positive pairs from which on what happens inside classes is judged

Finding = dict[str, str]


def unique_limit(bits: int) -> float:
    """The least share of distinct codes among those there could be (0.19 at 16 bits, 0.40 at 32)."""
    return 0.05 if bits < 32 else 0.15


def largest_code_limit(bits: int) -> float:
    """The greatest share of the commonest code among all items (0.10, 0.06 and 0.04 at 16, 32 and 64 bits)."""
    return max(0.07, 3.2 / bits)


def class_limit(bits: int) -> float:
    """The same inside one class (0.86 and 0.58 at 16 and 32 bits; 8 bits may leave a class no second code)."""
    return 1.0 if bits < 16 else 0.95 if bits < 32 else 0.8


def explain(found: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """Judges what `sdc.retrieve.diagnose.run.run` measured.

    Args:
        found: its figures; those that could not be measured are absent.

    Returns:
        `findings`, each an alarm, and `notes`; each of {"finding": id, "message": words}.
    """
    alarms = [*_bits(found), *_diversity(found), *_meaning(found)]
    return {
        "findings": [{"finding": name, "message": message} for name, message in alarms],
        "notes": [{"finding": name, "message": message} for name, message in _notes(found)],
    }


def _bits(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    bits, balance, correlation = found["bits"], found["balance"], found["correlation"]
    if balance["constant"] > TAIL * balance["lopsided"]:
        yield (
            "constant_bits",
            f"{balance['constant']} of {bits} bits have one value in all {found['sample']} codes sampled: they tell "
            "nothing apart. Encode features like those the head was trained on; train longer (--epochs) "
            "or with fewer --bits; for lsh and sign take random-rotation, which centres the features",
        )
    if balance["lopsided"] - balance["constant"] > LOPSIDED * bits:
        yield (
            "lopsided_bits",
            f"{balance['lopsided']} of {bits} bits have one value in more than 95 % of the codes, which leaves little "
            "to tell them apart by. The features' mean has moved since training, or was never taken off: train on "
            "features like these, or take a --method that centres them (random-rotation, itq, sdc)",
        )
    if correlation["copies"] > COPIED * bits:
        yield (
            "copied_bits",
            f"{correlation['copies']} of {bits} bits repeat another or its opposite: the codes tell no more than "
            f"{bits - correlation['copies']} bits would. Use fewer --bits, a --method with orthogonal bits (itq), or a "
            "narrower --calibration, which needs more independent bits",
        )
    if found["effective_bits"] < EFFECTIVE_BITS:
        yield (
            "few_effective_bits",
            f"the codes vary as {found['effective_bits']:.1f} independent bits would, of {bits}: they have lost their "
            "diversity. Lower --lr, raise --batch-size, or take a narrower --calibration",
        )


def _diversity(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    bits, sample = found["bits"], found["sample"]
    possible = min(sample, ENOUGH, 2.0**bits)
    if found["similarity"]["mean"] > ALIKE:
        yield (
            "alike",
            f"two codes agree in {(1 + found['similarity']['mean']) / 2:.0%} of their bits on average (50 % is ideal): "
            "all are alike. The head has collapsed, or the features lie in a narrow cone: lower --lr and train again, "
            "or take a --method that centres the features (random-rotation, itq, sdc)",
        )
    if found["unique"] * sample < unique_limit(bits) * possible:
        tied = "".join(f"; {v['items']:.0f} items tie with the {k}th neighbour" for k, v in found["ties"].items())
        yield (
            "few_codes",
            f"{sample} items have only {round(found['unique'] * sample)} distinct codes{tied}: among items of one code "
            "the ranking is arbitrary. Use --locality 0, more --bits, fewer --epochs, a lower --lr or a narrower "
            "--calibration; or the features hold many copies",
        )
    largest, in_class = found["largest_code"], found.get("largest_code_of_a_class", 0.0)
    unlike = found.get("unlike", 0.0) if bits >= 32 and largest > CROWD else 0.0
    if largest > largest_code_limit(bits) or in_class > class_limit(bits) or unlike > UNLIKE:
        more = f", and {in_class:.0%} of one class" if in_class > class_limit(bits) else ""
        more += f"; {unlike:.0%} of the pairs with one code are not alike" if unlike > UNLIKE else ""
        yield (
            "one_code",
            f"the commonest code stands for {largest:.1%} of all items{more}: a whole cluster has fallen together "
            "and cannot be ranked inside. Use --locality 0, more --bits, a lower --lr, fewer --epochs or a narrower "
            "--calibration; or these items are copies of one another",
        )


def _meaning(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    agreement, overlap = found.get("agreement"), found.get("overlap")
    if agreement and agreement["all"] < AGREEMENT:
        yield (
            "unrelated_codes",
            f"code similarity and the features' cosine correlate at {agreement['all']:.2f}: the codes do not follow "
            "the features. Check that model and features belong together, then train again with a lower --lr or more "
            "--epochs",
        )
    elif overlap and not agreement and overlap["codes"] > OVERLAP:
        yield (
            "unrelated_codes",
            f"similarities of positive and negative pairs overlap by {overlap['codes']:.2f}: the codes tell nothing of "
            "the labels. Compare with the features (--features) to see whether it is their fault; else train again",
        )
    judged = found.get("pairs", {}).get("positive", 0) >= JUDGED
    if agreement and judged and agreement["within"] < WITHIN and agreement["all"] >= 2 * AGREEMENT:
        yield (
            "fine_grain_lost",
            "between classes the codes follow the features, but inside them hardly at all (correlation "
            f"{agreement['within']:.2f}, over all pairs {agreement['all']:.2f}): fine-grained retrieval suffers. "
            "Use --locality 0, more --bits, fewer --epochs, or a narrower --calibration",
        )
    if found["target_known"] and found["target_distance"] > TARGET:
        yield (
            "target_missed",
            f"the code similarities are {found['target_distance']:.2f} (W1) away from {found['target']}, to which they "
            "were calibrated: the collapse persists. Train longer (--epochs) or change --lr; and encode features like "
            "those the head was trained on",
        )


def _notes(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not found["target_known"]:
        yield (
            "target_unknown",
            f"no calibration is known for these codes: target_distance is that to {found['target']}, ideal codes",
        )
    spread = found.get("feature_similarity")
    if spread and spread["coverage"] >= COVERAGE:
        yield (
            "spread_already",
            f"the features' cosines (mean {spread['mean']:.2f}, sd {spread['sd']:.2f}) cover {spread['coverage']:.0%} "
            "of the range that calibration would stretch them to, both taken between their 1st and 99th percentile: "
            "calibration may not help here; compare with --method itq",
        )
