"""`sdc diagnose`: have the codes of an index collapsed, and how?

Everything is measured on the pairs of a seeded sample of the database. With labels, the overlap of the similarities of
positive and negative pairs, for the codes and for the features (the "intersection" of Ng et al., BMVC 2023); in any
case how the codes use their bits, and how far their similarities are from those they were calibrated to.
`sdc.retrieve.diagnose.alarms` puts the figures into words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.store import NO_LABEL
from sdc.retrieve.bits import hamming, unpack
from sdc.retrieve.diagnose import similarity_histograms
from sdc.retrieve.diagnose.alarms import explain
from sdc.retrieve.features import Features, encoded_features
from sdc.retrieve.index import Index, Records
from sdc.train.methods import CALIBRATED

CUTOFFS = (10, 100)
COPIES = 0.95  # |correlation| from which on two bits say the same
ALIKE = 0.8  # level of the cosines above which two items count as alike
SMALL_CLASS = 20  # sampled items below which a class is too small to be judged
_TIES, _PAIRS = 1 << 27, 1 << 22  # pairs looked at for tied neighbors (about a second), and held at once
_CENTRAL = np.array([0.01, 0.99])  # levels between which a distribution's range is taken

InverseCdf = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class DiagnoseSettings:
    """What `sdc diagnose` does; the defaults are the command's.

    Attributes:
        index: the db.bin to examine.
        features: the features it was encoded from; None takes the recorded path, and does without if there are none.
        sample: rows of the database whose pairs are examined, at most.
        seed: of the sample.
        out: a .png for a figure of the similarity histograms, or a .csv for their table.
        verify: check every byte of the files read.
    """

    index: Path = Path("db.bin")
    features: Path | None = None
    sample: int = 4000
    seed: int = 0
    out: Path | None = None
    verify: bool = True


def run(settings: DiagnoseSettings) -> dict[str, Any]:
    """Examines the codes of an index.

    Returns:
        The JSON of `sdc diagnose`: bits, rows, sample, method, what `measure` gives, and the lists `findings` (alarms)
        and `notes`, each of {"finding": id, "message": what was found, what it means and what to change}.

    Raises:
        SdcError: a file is missing or damaged, or the index has a single code.
        UsageError: an unknown kind of file to write, a sample of less than two rows, or features that are not those
            the index was encoded from.
    """
    if settings.sample < 2:
        raise UsageError(f"--sample {settings.sample}: pairs need a sample of at least 2 rows")
    if settings.out is not None:
        similarity_histograms.check(settings.out)
    index = Index.open(settings.index, verify=settings.verify)
    database = index.database
    if len(database) < 2:
        raise SdcError(f"{settings.index} holds a single code: there are no pairs to diagnose")
    sample, labels = _sample(database, settings)
    store = _features(settings, index)
    codes = database.codes[sample]
    features = None if store is None else store.take(database.rows[sample])
    spec, target = _target(index)
    counts = similarity_histograms.count_pairs(codes, features, labels)
    figures = {
        "bits": index.bits,
        "rows": len(database),
        "sample": len(sample),
        "method": index.metadata.get("model", {}).get("method"),
        "target": spec or f"binomial({index.bits}, 1/2)",
        "target_known": spec is not None,
        **measure(codes, labels, counts, target),
        "ties": ties(database.codes, sample, CUTOFFS),
    }
    if settings.out is not None:
        panels = {} if store is None else {"features": similarity_histograms.of_features(counts)}
        similarity_histograms.write(
            settings.out, {**panels, f"codes of {index.bits} bits": similarity_histograms.of_codes(counts)}
        )
    return figures | explain(figures)


def _features(settings: DiagnoseSettings, index: Index) -> Features | None:
    """The features the index was encoded from; None where they are not asked for and not where they were."""
    try:
        return encoded_features(index, settings.features, verify=settings.verify)
    except SdcError as error:
        if settings.features is not None:
            raise
        log.warning("the codes are examined without their features: %s", error)
        return None


def _target(index: Index) -> tuple[str | None, InverseCdf]:
    """The model's calibration and its F⁻¹; where none is known, that of ideal codes, B(K, ½)."""
    from scipy.stats import binom

    from sdc.train import Model
    from sdc.train.calibrations import inverse_cdf

    if index.metadata.get("model", {}).get("method") in CALIBRATED:
        path, fingerprint = index.recorded("model")
        try:
            model = Model.load(path)
            if model.fingerprint != fingerprint:
                raise SdcError(f"{path} is not the model that encoded the index")
            spec = str(model.metadata.get("settings", {}).get("calibration"))
            return spec, inverse_cdf(spec)
        except SdcError as error:
            log.info("the calibration is not known: %s", error)
    return None, lambda levels: binom.ppf(levels, index.bits, 0.5) / index.bits


def measure(codes: np.ndarray, labels: np.ndarray | None, counts: np.ndarray, target: InverseCdf) -> dict[str, Any]:
    """All figures of a sample of codes.

    Args:
        codes: (n, K // 8) uint8.
        labels: (n,) or (n, C) multi-hot.
        counts: of its pairs, by `sdc.retrieve.diagnose.similarity_histograms.count_pairs`.
        target: F⁻¹, on [0, 1], of what the code similarities should be distributed as.

    Returns:
        similarity: mean and sd over pairs; target_distance: W1 to the target on [−1, 1]; balance, correlation and
        effective_bits as `bit_use`; unique: distinct codes / n; largest_code: share of n that have the commonest code.
        With labels largest_code_of_a_class: the same in the class where it is greatest; pairs: positive and negative.
        With both kinds of pairs, overlap: of codes, and of features.
        With features feature_similarity: mean and sd, and coverage: how much of the target's central 98 % the
        features' central 98 % covers; agreement: the correlation of code similarity and cosine over all pairs, and
        over those within a class; unlike: of the pairs that have one code, the share whose cosine is not among the
        greatest fifth.
    """
    similarities, cosines = similarity_histograms.of_codes(counts), similarity_histograms.of_features(counts)
    mean, sd = similarities.mean_and_sd()
    sizes = np.unique(codes, axis=0, return_counts=True)[1]
    figures: dict[str, Any] = {
        "similarity": {"mean": mean, "sd": sd},
        "target_distance": similarities.distance(target),
        **bit_use(codes),
        "unique": len(sizes) / len(codes),
        "largest_code": int(sizes.max()) / len(codes),
    }
    with_features = counts.shape[2] > 1
    positive, negative = int(similarities.positive.sum()), int(similarities.negative.sum())
    if labels is not None:
        figures["largest_code_of_a_class"] = _largest_of_a_class(codes, labels)
        figures["pairs"] = {"positive": positive, "negative": negative}
    if positive and negative:
        figures["overlap"] = {"codes": similarities.overlap()}
        if with_features:
            figures["overlap"]["features"] = cosines.overlap()
    if with_features:
        mean, sd = cosines.mean_and_sd()
        low, high = 2 * target(_CENTRAL) - 1
        first, last = cosines.quantiles(_CENTRAL)
        coverage = max(0.0, min(high, last) - max(low, first)) / (high - low)
        figures["feature_similarity"] = {"mean": mean, "sd": sd, "coverage": float(coverage)}
        figures["agreement"] = {"all": similarity_histograms.correlation(counts.sum(axis=0))}
        if counts[:, 0].any():
            figures["unlike"] = _unlike(counts.sum(axis=0))
        if positive:
            figures["agreement"]["within"] = similarity_histograms.correlation(counts[1])
    return figures


def _unlike(counts: np.ndarray) -> float:
    """`unlike` of `measure`, from pairs (K + 1, bins) by Hamming distance and bin of the cosine."""
    below = np.cumsum(counts.sum(axis=0)) <= ALIKE * counts.sum()
    return float(counts[0, below].sum() / counts[0].sum())


def bit_use(codes: np.ndarray) -> dict[str, Any]:
    """How codes (n, K // 8) uint8 use their bits.

    Returns:
        balance: of the bits' means m, `mean` and `worst` of |2m − 1| (0 is half and half), how many are `constant`
        and how many `lopsided`, with a rarer value below 5 %; correlation: mean and maximum |r| of two bits that
        vary, and `copies`, the bits with |r| ≥ 0.95 to one before them; effective_bits: the participation ratio
        (Σλ)² / Σλ² of the bits' covariance (Gao et al., "A theory of multineuronal dimensionality", 2017), which is K
        for independent balanced bits and 1 where one bit says all.
    """
    bits = unpack(codes).astype(np.float32)
    means = bits.mean(axis=0, dtype=np.float64)
    centred = bits - means.astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / len(bits)
    rarer, total = np.minimum(means, 1 - means), float(np.trace(covariance))
    varied = covariance[np.ix_(rarer > 0, rarer > 0)]
    deviation = np.sqrt(np.diag(varied))
    below = np.abs(np.tril(varied / np.outer(deviation, deviation), -1))
    pairs = len(varied) * (len(varied) - 1) / 2
    return {
        "balance": {
            "mean": float(np.abs(2 * means - 1).mean()),
            "worst": float(np.abs(2 * means - 1).max()),
            "constant": int((rarer == 0).sum()),
            "lopsided": int((rarer < 0.05).sum()),
        },
        "correlation": {
            "mean": float(below.sum() / max(pairs, 1)),
            "max": min(1.0, float(below.max(initial=0))),
            "copies": int((below >= COPIES).any(axis=1).sum()),
        },
        "effective_bits": total**2 / float((covariance**2).sum()) if total else 0.0,
    }


def _sample(database: Records, settings: DiagnoseSettings) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions whose pairs are looked at, and their labels: where there are labels, of what has one."""
    pool, labels = np.arange(len(database)), database.labels
    if labels is not None and (labels == NO_LABEL).any():  # multi-hot ones are 0 and 1
        pool = np.flatnonzero(labels != NO_LABEL)
    if len(pool) < 2:
        pool, labels = np.arange(len(database)), None
    chosen = np.random.default_rng(settings.seed).choice(len(pool), min(settings.sample, len(pool)), replace=False)
    return pool[chosen], None if labels is None else labels[pool[chosen]]


def _largest_of_a_class(codes: np.ndarray, labels: np.ndarray) -> float:
    """The greatest share of a class (of at least `SMALL_CLASS` items) that have one code; 0 without such a class."""
    members = [labels == kind for kind in np.unique(labels)] if labels.ndim == 1 else list(labels.T > 0)
    largest = 0.0
    for mask in members:
        if mask.sum() >= SMALL_CLASS:
            sizes = np.unique(codes[mask], axis=0, return_counts=True)[1]
            largest = max(largest, float(sizes.max() / mask.sum()))
    return largest


def ties(codes: np.ndarray, sample: np.ndarray, cutoffs: Sequence[int]) -> dict[str, dict[str, float]]:
    """How many items of a database are as far from a query as its k-th neighbor, which is one of them.

    Args:
        codes: (N, K // 8) uint8.
        sample: places of the queries in it; of a large database fewer are taken. Their own codes do not count.
        cutoffs: values of k; those above N − 1 are left out.

    Returns:
        By k, the mean over queries: `items`, and their `share` of the database.
    """
    others = len(codes) - 1
    queries = sample[: max(1, _TIES // len(codes))]
    totals = {k: 0 for k in cutoffs if k <= others}
    size = max(1, _PAIRS // len(codes))
    for start in range(0, len(queries), size):
        for distances in hamming(codes[queries[start : start + size]], codes):
            sizes = np.bincount(distances)
            sizes[0] -= 1
            ends = np.cumsum(sizes)
            for k in totals:
                totals[k] += int(sizes[np.searchsorted(ends, k)])
    means = {k: total / len(queries) for k, total in totals.items()}
    return {str(k): {"items": mean, "share": mean / others} for k, mean in means.items()}
