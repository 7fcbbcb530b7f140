"""Precision and recall over cut-offs and Hamming radii, and their file.

One file holds three tables: `cutoff` (expected precision and recall of the top k), `radius` (of the items within a
Hamming distance; an empty ball has precision 0) and `query` (each query's AP). As .json they are lists of records
under these names; as .csv they are one long table of `table,key,metric,value`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import UsageError, log
from sdc.files import atomic_write, writable
from sdc.retrieve.index import Records

_KEYS = {"cutoff": "at", "radius": "radius", "query": "id"}


def at_cutoffs(sizes: np.ndarray, hits: np.ndarray, cutoffs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Expected precision and recall of the top k, each (Q, cut-offs).

    Ties being in random order, the expected number of relevant items among the top k runs linearly through a group
    of ties. A query with nothing relevant in the database has recall 0.

    Args:
        sizes, hits: (Q, groups) items and relevant items in each group of ties, nearest first.
        cutoffs: values of k.
    """
    at = np.asarray(cutoffs)
    ends, found = (np.pad(np.cumsum(a, axis=1), ((0, 0), (1, 0))) for a in (sizes, hits))
    expected = np.array([np.interp(at, e, f) for e, f in zip(ends, found, strict=True)]).reshape(-1, len(at))
    return expected / at, expected / np.maximum(found[:, -1:], 1)


def check(path: Path) -> None:
    """Refuses, before anything is computed, a file that could not be written.

    Raises:
        UsageError: its ending is none of those known; and as `sdc.files.writable`.
        SdcError: as `sdc.files.writable`.
    """
    if path.suffix not in (".csv", ".json"):
        raise UsageError(f"curves go to a .csv or a .json file, found {path}")
    writable(path)


def write(
    path: Path,
    queries: Records,
    sizes: np.ndarray,
    hits: np.ndarray,
    per_query: Mapping[str, np.ndarray],
    cutoffs: Sequence[int],
) -> Path:
    """Writes the three tables; see the module.

    Raises:
        SdcError: the file cannot be written.
    """
    tables = {
        "cutoff": _cutoff_table(sizes, hits, cutoffs),
        "radius": _radius_table(sizes, hits),
        "query": [
            {"id": name, "row": int(row), "relevant": int(count)} | {k: float(v[q]) for k, v in per_query.items()}
            for q, (name, row, count) in enumerate(zip(queries.names(), queries.rows, hits.sum(axis=1), strict=True))
        ],
    }
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".json":
            json.dump(tables, file, ensure_ascii=False)
        else:
            csv.writer(file).writerows(_long(tables))
    log.info("curves and %d queries' values: %s", len(queries), path)
    return path


def _cutoff_table(sizes: np.ndarray, hits: np.ndarray, cutoffs: Sequence[int]) -> list[dict[str, Any]]:
    """At the given cut-offs and at 1, 2, 5, 10, … up to the shortest ranking."""
    ranked = int(sizes.sum(axis=1).min())
    series = {factor * 10**power for power in range(len(str(ranked))) for factor in (1, 2, 5)}
    ks = sorted(k for k in {*series, *cutoffs, ranked} if k <= ranked)
    precision, recall = (values.mean(axis=0) for values in at_cutoffs(sizes, hits, ks))
    return [{"at": k, "precision": float(p), "recall": float(r)} for k, p, r in zip(ks, precision, recall, strict=True)]


def _radius_table(sizes: np.ndarray, hits: np.ndarray) -> list[dict[str, Any]]:
    items, found = np.cumsum(sizes, axis=1), np.cumsum(hits, axis=1)
    precision = (found / np.maximum(items, 1)).mean(axis=0)
    recall = (found / np.maximum(found[:, -1:], 1)).mean(axis=0)
    return [
        {"radius": radius, "precision": float(p), "recall": float(r), "items": float(n)}
        for radius, (p, r, n) in enumerate(zip(precision, recall, items.mean(axis=0), strict=True))
    ]


def _long(tables: Mapping[str, list[dict[str, Any]]]) -> Iterable[tuple[Any, ...]]:
    yield "table", "key", "metric", "value"
    for table, records in tables.items():
        for record in records:
            key = record[_KEYS[table]]
            for metric, value in record.items():
                if metric != _KEYS[table]:
                    yield table, key, metric, value
