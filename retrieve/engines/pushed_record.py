"""What a push writes into a collection about the index it came from."""

from __future__ import annotations

import json
import os
from typing import Any, Literal

import numpy as np

from sdc.errors import log
from sdc.extract.store import classes_to_json
from sdc.files import checksum, fingerprint
from sdc.retrieve.engines.base import Record
from sdc.retrieve.features import added_sources
from sdc.retrieve.index import Index
from sdc.retrieve.origin import is_refined

_NAMES_BYTES = 1 << 18  # of a record: Milvus keeps it where no value may have more than 1.5 MB


def record_of(index: Index, index_type: str) -> Record:
    """What is written into the collection. Paths are absolute, since it may be searched from any folder."""
    metadata: dict[str, Any] = {}
    recorded: tuple[Literal["model", "features"], ...] = ("model", "features")
    for what in recorded:
        if index.metadata.get(what):
            path, _ = index.recorded(what)
            metadata[what] = {**index.metadata[what], "path": os.path.abspath(path)}
    classes = classes_to_json(index.items.classes)
    if classes and len(json.dumps(classes)) > _NAMES_BYTES:
        log.warning("the names of classes take more than %d bytes and are not pushed: numbers are", _NAMES_BYTES)
    elif classes:
        metadata["classes"] = classes
    metadata |= {} if is_refined(index) else {"settings": {"no_refine": True}}
    for first, at, of in added_sources(index):
        source = {"first": first, "path": os.path.abspath(at), "fingerprint": of}
        metadata.setdefault("sources", []).append(source)
    labels = index.database.labels
    kind = "none" if labels is None else "one" if labels.ndim == 1 else "many"
    return Record(_fingerprint(index), index.bits, len(index), kind, index_type, metadata)


def _fingerprint(index: Index) -> str:
    """Of the items and the model that made them: unlike the index's own it outlasts `sdc compact`."""
    arrays = {**index.database.arrays("database"), "codes": index.database.codes}
    model = {name: value for name, value in index.metadata.get("model", {}).items() if name != "path"}
    sums = {name: checksum(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return fingerprint({"kind": "pushed", "model": model, **sums})
