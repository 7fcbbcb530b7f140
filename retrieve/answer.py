"""The JSON of a search: built here for a db.bin, for other engines and for the service, as answer_schema.json says."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np

from sdc.extract.store import Classes

Neighbors = list[dict[str, Any]]


def ragged_neighbors(ids: Sequence[str], columns: Mapping[str, np.ndarray], limits: Iterable[int]) -> list[Neighbors]:
    """The neighbors of each query.

    Args:
        ids: of all neighbors of all queries, M of them.
        columns: by key of the JSON, what else the JSON has of each, M values: row, distance, similarity, …
        limits: (Q + 1,) those of query q are at limits[q]:limits[q + 1].
    """
    values = zip(ids, *(column.ravel().tolist() for column in columns.values()), strict=True)
    items = [dict(zip(("id", *columns), each, strict=True)) for each in values]
    return [items[first:last] for first, last in pairwise(limits)]


def equal_neighbors(ids: Sequence[str], columns: Mapping[str, np.ndarray]) -> list[Neighbors]:
    """`ragged_neighbors` of columns (Q, k)."""
    count, k = next(iter(columns.values())).shape
    return ragged_neighbors(ids, columns, range(0, count * k + 1, k) if k else [0] * (count + 1))


def text_column(texts: Sequence[str] | None) -> dict[str, np.ndarray]:
    """What the JSON has of the texts of items: `text`; nothing without texts."""
    return {} if texts is None else {"text": _objects(texts)}


def label_columns(labels: np.ndarray | Sequence[Any] | None, classes: Classes) -> dict[str, np.ndarray]:
    """What the JSON has of the classes of items: `label`, and `class` where classes have names; nothing without labels.

    Args:
        labels: (n,) numbers, or (n, C) zeros and ones; or of each item its number, or a list of them.
        classes: the names of the classes.
    """
    if labels is None:
        return {}
    if isinstance(labels, np.ndarray) and labels.ndim > 1:
        labels = [np.flatnonzero(row).tolist() for row in labels]
    numbers = labels.tolist() if isinstance(labels, np.ndarray) else labels
    columns = {"label": numbers}
    names = classes.get("labels")
    if names:
        columns["class"] = [
            [names.get(one) for one in each] if isinstance(each, list) else names.get(each) for each in numbers
        ]
    return {name: _objects(values) for name, values in columns.items()}


def _objects(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    for place, value in enumerate(values):  # all at once, lists of one length would become a matrix
        column[place] = value
    return column


def build_answer(
    index: str,
    k: int,
    names: Sequence[str],
    lists: Iterable[Neighbors],
    *,
    radius: int | None = None,
    rerank: dict[str, Any] | None = None,
    in_float: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The answer to queries.

    Args:
        index: what was searched.
        k: as clamped to the database; of no meaning with a radius.
        names: of the queries.
        lists: of each query its neighbors, in their order.
        rerank: what reranking did, where there was any.
        in_float: how queries in float were compared, where they were.
    """
    return {
        "index": index,
        "k": k if radius is None else None,
        **({} if radius is None else {"radius": radius}),
        **({} if rerank is None else {"rerank": rerank}),
        **({} if in_float is None else {"float": in_float}),
        "results": [{"query": name, "neighbors": near} for name, near in zip(names, lists, strict=True)],
    }


def answer_schema(leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The JSON schema of an answer, without the properties of some names."""
    whole = copy.deepcopy(_schema())
    _drop(whole, leave_out)
    return whole


@cache
def _schema() -> dict[str, Any]:
    text = files("sdc.retrieve").joinpath("answer_schema.json").read_text(encoding="utf-8")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def _drop(part: Any, names: Collection[str]) -> None:
    if isinstance(part, dict):
        for name in set(part.get("properties", ())) & set(names):
            del part["properties"][name]
        for each in part.values():
            _drop(each, names)
