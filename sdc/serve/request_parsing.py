"""What a request asks for: JSON with vectors or an id, or the parameters beside an image. Nothing in it is trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from sdc.errors import unknown_name_error
from sdc.serve.limits import HTTPRefusal
from sdc.serve.settings import MOST_LABELS, MOST_NEIGHBORS, MOST_VECTORS

K = 10
_LONGEST = 4096  # characters of an id or of a class; what a path may have
_SIGNS = 2 * MOST_VECTORS  # brackets in a body, and commas beyond those between numbers
_WHATS = ("vector", "vectors", "id")
_HOWS = ("k", "radius", "only_label", "rerank", "recall")
_REALS = ("rerank", "recall")  # of these, those that may be any number
_KINDS = {bool: "true or false", dict: "an object", list: "a list", str: "a string", type(None): "null"}


@dataclass(frozen=True)
class How:
    """How neighbours are chosen.

    Attributes:
        k: how many are wanted; None with a radius.
        radius: the largest Hamming distance.
        labels: numbers or names of classes; none for any.
        rerank: the factor, at least 1, or `auto`; None leaves the order by Hamming distance.
        recall: for `auto`; None takes what `sdc search` takes.
    """

    k: int | None = K
    radius: int | None = None
    labels: tuple[int | str, ...] = ()
    rerank: float | Literal["auto"] | None = None
    recall: float | None = None


@dataclass(frozen=True)
class Query:
    """What a JSON body asks for: vectors, (Q, d) float64, or the item of an id."""

    how: How
    vectors: np.ndarray | None = None
    id: str | None = None


def of_json(body: bytes | bytearray, max_k: int, dimension: int) -> Query:
    """The query of a JSON body.

    Args:
        dimension: of the vectors, which bounds how much a body may hold; their size is the model's to check.

    Raises:
        HTTPRefusal: 400 it is no JSON object, 422 it asks for what there is not.
    """
    request = _parsed(body, MOST_VECTORS * dimension)
    for key in request:
        if key not in (*_WHATS, *_HOWS):
            raise HTTPRefusal(422, str(unknown_name_error("key", key[:100], (*_WHATS, *_HOWS))))
    named = [key for key in _WHATS if key in request]
    if len(named) != 1:
        raise HTTPRefusal(422, f"expected one of vector, vectors and id, found {' and '.join(named) or 'none of them'}")
    how = _how(request, max_k)
    if "id" in request:
        if not isinstance(request["id"], str):
            raise HTTPRefusal(422, f"id: expected a string, found {_described(request['id'])}")
        if len(request["id"]) > _LONGEST:  # the search for what resembles it would take long
            raise HTTPRefusal(404, f"unknown id: it has more than {_LONGEST} characters")
        return Query(how, id=request["id"])
    vectors = _matrix([request["vector"]] if "vector" in request else request["vectors"], named[0])
    neighbors = len(vectors) * (how.k or max_k)
    if neighbors > MOST_NEIGHBORS:
        raise HTTPRefusal(
            422, f"{len(vectors)} vectors may have {neighbors} neighbours in all, expected at most {MOST_NEIGHBORS}"
        )
    return Query(how, vectors)


def of_parameters(parameters: Mapping[str, list[str]], max_k: int) -> How:
    """How the neighbours of an image are chosen, by the query string.

    Raises:
        HTTPRefusal: 422 a parameter is unknown, given twice, or out of its range.
    """
    parameter_values: dict[str, Any] = {}
    for key, values in parameters.items():
        if key not in _HOWS:
            raise HTTPRefusal(422, str(unknown_name_error("parameter", key[:100], _HOWS)))
        found = values if key == "only_label" else [_parameter(key, value) for value in values]
        if key != "only_label" and len(found) > 1:
            raise HTTPRefusal(422, f"{key} is given {len(found)} times, expected once")
        parameter_values[key] = found if key == "only_label" else found[0]
    return _how(parameter_values, max_k)


def _parameter(key: str, text: str) -> Any:
    """The value that JSON would have."""
    if key == "rerank" and text == "auto":
        return text
    whole = key not in _REALS
    try:
        return int(text[:20]) if whole else float(text[:40])
    except ValueError:
        raise HTTPRefusal(422, f"{key}: expected a {'whole ' if whole else ''}number, found {text[:40]!r}") from None


def _parsed(body: bytes | bytearray, numbers: int) -> dict[str, Any]:
    # What is parsed takes 20 times the memory of its text, and time in which no other thread runs: so it is bounded.
    for sign, most in ((b"[", 0), (b"{", 0), (b",", numbers)):
        if body.count(sign) > most + _SIGNS:
            raise HTTPRefusal(400, f"the body has more {sign.decode()} than {MOST_VECTORS} vectors need")
    try:
        request = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise HTTPRefusal(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise HTTPRefusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise HTTPRefusal(400, f"the body is {_described(request)}, expected a JSON object")
    return request


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in it")


def _how(request: Mapping[str, Any], max_k: int) -> How:
    if "k" in request and "radius" in request:
        raise HTTPRefusal(422, "k asks for the nearest, radius for all within a distance: give one of them")
    labels = request.get("only_label", [])
    labels = labels if isinstance(labels, list) else [labels]
    if len(labels) > MOST_LABELS:
        raise HTTPRefusal(422, f"only_label has {len(labels)} labels, expected at most {MOST_LABELS}")
    classes = tuple(_class(label) for label in labels)
    rerank, recall = _finer(request)
    if "radius" in request:
        if rerank is not None:
            raise HTTPRefusal(422, "rerank orders the nearest, radius asks for all within a distance: give one of them")
        return How(None, _whole("radius", request["radius"], 0, 2**31 - 1), classes)
    k = _whole("k", request["k"], 1, max_k) if "k" in request else min(K, max_k)
    return How(k, None, classes, rerank, recall)


def _finer(request: Mapping[str, Any]) -> tuple[float | Literal["auto"] | None, float | None]:
    """Whether a finer order is asked for, and with which recall."""
    rerank, recall = request.get("rerank"), request.get("recall")
    real = isinstance(rerank, int | float) and not isinstance(rerank, bool) and 1 <= rerank < math.inf
    if "rerank" in request and not real and rerank != "auto":
        raise HTTPRefusal(422, f"rerank: expected a number from 1 on, or auto, found {_described(rerank)}")
    if "recall" in request:
        if rerank != "auto":
            raise HTTPRefusal(422, "recall says what rerank: auto has to reach: give it with that")
        if not isinstance(recall, int | float) or isinstance(recall, bool) or not 0 < recall <= 1:
            raise HTTPRefusal(422, f"recall: expected a number above 0, at most 1, found {_described(recall)}")
    return rerank, recall


def _class(label: Any) -> int | str:
    if not isinstance(label, str):
        return _whole("only_label", label, 0, 2**31 - 1)
    if len(label) > _LONGEST:
        raise HTTPRefusal(422, f"only_label: unknown class, it has more than {_LONGEST} characters")
    return label


def _whole(what: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise HTTPRefusal(422, f"{what}: expected a whole number from {least} to {most}, found {_described(value)}")
    return value


def _matrix(rows: Any, what: str) -> np.ndarray:
    """Vectors as (Q, d) float64. Types are checked first: NumPy takes strings, null and truth values for numbers."""
    if not isinstance(rows, list) or not rows:
        raise HTTPRefusal(422, f"{what}: expected a list of vectors, found {_described(rows)}")
    if len(rows) > MOST_VECTORS:
        raise HTTPRefusal(422, f"{what}: found {len(rows)}, expected at most {MOST_VECTORS} in one request")
    for row in rows:
        if not isinstance(row, list) or not row:
            raise HTTPRefusal(422, f"{what}: expected a list of numbers, found {_described(row)}")
        if len(row) != len(rows[0]):
            raise HTTPRefusal(422, f"{what}: found vectors of {len(rows[0])} and of {len(row)} numbers")
        if not set(map(type, row)) <= {int, float}:
            other = next(value for value in row if type(value) not in (int, float))
            raise HTTPRefusal(422, f"{what}: expected numbers, found {_described(other)}")
    try:
        return np.array(rows, np.float64)
    except OverflowError:
        raise HTTPRefusal(422, f"{what}: a number is too large") from None


def _described(value: Any) -> str:
    """A value in a few words, whatever its size."""
    if isinstance(value, list) and not value:
        return "an empty list"
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30):
        return str(value)
    return _KINDS.get(type(value), "a number far too large")
