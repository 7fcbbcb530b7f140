"""The OpenAPI 3.1 description at /openapi.json: openapi.json, filled with the limits of a service.

In that file a text "$name" stands for one of its `parts` or for a value that `describe` gives; the answer of a search
is described by the schema of `sdc search`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from sdc._version import __version__
from sdc.retrieve import answer_schema
from sdc.retrieve.rerank import RECALL
from sdc.serve.request_parsing import K
from sdc.serve.settings import MOST_EXAMPLES, MOST_LABELS, MOST_VECTORS, ServeSettings

_NOT_SERVED = ("float",)  # properties of an answer that only `sdc search` has
_TEXT = json.loads(files("sdc.serve").joinpath("openapi.json").read_text(encoding="utf-8"))
ROUTES = tuple(_TEXT["document"]["paths"])


def describe(settings: ServeSettings) -> dict[str, Any]:
    """The description of a service with these limits."""
    answer = answer_schema(leave_out=_NOT_SERVED)
    neighbor = answer["properties"]["results"]["items"]["properties"]["neighbors"]["items"]
    values = {
        "version": __version__,
        "answer": answer,
        "label": neighbor["properties"]["label"],
        "recall": RECALL,
        "class": neighbor["properties"]["class"],
        "max_k": settings.max_k,
        "default_k": min(K, settings.max_k),
        "max_body": settings.max_body,
        "timeout": f"{settings.timeout:g}",
        "most_examples": MOST_EXAMPLES,
        "most_labels": MOST_LABELS,
        "most_vectors": MOST_VECTORS,
    }
    filled: dict[str, Any] = _filled(_TEXT["document"], {**_TEXT["parts"], **values})
    return filled


def _filled(part: Any, values: Mapping[str, Any]) -> Any:
    """A part of the description with the values put in: "$name" alone is the value itself, within a text its text."""
    if isinstance(part, dict):
        return {key: _filled(each, values) for key, each in part.items()}
    if isinstance(part, list):
        return [_filled(each, values) for each in part]
    if isinstance(part, str) and part[:1] == "$" and part[1:] in values:
        return _filled(values[part[1:]], values)
    return Template(part).safe_substitute(values) if isinstance(part, str) and "$" in part else part
