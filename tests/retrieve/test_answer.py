from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdc.extract.store import FeatureStore
from sdc.retrieve import answer_schema
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
from sdc.train.model import Model

README = Path(__file__).parents[2] / "README.md"
KINDS = {"object": dict, "array": list, "string": str, "integer": int, "number": float, "null": type(None)}


def assert_valid(part, value):
    """That a value is of a schema, as far as the answer's goes; properties that it does not name are refused."""
    if "oneOf" in part:
        part = part["oneOf"][isinstance(value, list)]
    if "enum" in part:
        assert value in part["enum"]
        return
    names = part["type"] if isinstance(part["type"], list) else [part["type"]]
    assert type(value) in [KINDS[name] for name in names], (part, value)
    if isinstance(value, dict):
        assert set(part["required"]) <= set(value) <= set(part["properties"])
        for key, each in value.items():
            assert_valid(part["properties"][key], each)
    for each in value if isinstance(value, list) else ():
        assert_valid(part["items"], each)


def test_the_readme_example_is_of_the_schema():
    (text,) = re.findall(r'^(\{"index":.*?\})\n```', README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert_valid(answer_schema(), json.loads(text))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"radius": 2},
        {"rerank": 2},
        {"rerank": "auto", "recall": 0.5},
        {"k": 999},
        {"query": "float"},
        {"query": "float", "recall": 0.5},
    ],
)
def test_each_kind_of_search_answers_by_the_schema(scene, options):
    answer = search(SearchSettings(scene.folder / "db.bin", limit=3, **options))
    assert_valid(answer_schema(), answer)
    assert len(answer["results"]) == 3


def test_properties_can_be_left_out_of_the_schema():
    whole, part = answer_schema(), answer_schema(leave_out=("rerank", "score"))
    assert set(whole["properties"]) - set(part["properties"]) == {"rerank"}
    assert "score" not in json.dumps(part)
    assert "similarity" in json.dumps(part)
    assert answer_schema() == whole


@pytest.fixture
def counted(monkeypatch):
    """How often a model was loaded, its outputs computed, and a feature store opened."""
    counts = {"load": 0, "outputs": 0, "store": 0}

    def count(owner, name, key, wrap):
        real = getattr(owner, name)

        def counting(*arguments, **options):
            counts[key] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, wrap(counting))

    count(Model, "load", "load", staticmethod)
    count(Model, "outputs", "outputs", lambda function: function)
    count(FeatureStore, "__init__", "store", lambda function: function)
    return counts


def test_reranking_loads_the_model_and_computes_outputs_once(scene, counted):
    np.save(scene.folder / "q.npy", np.random.default_rng(0).standard_normal((7, 24)).astype(np.float32))
    asked = SearchSettings(scene.folder / "db.bin", queries=scene.folder / "q.npy", rerank=2)
    search(asked)
    assert counted == {"load": 1, "outputs": 1, "store": 1}
    search(replace(asked, rerank="auto", recall=0.5))  # measures: outputs of its own sample as well
    assert counted == {"load": 2, "outputs": 3, "store": 2}
    search(replace(asked, rerank="auto", recall=0.5))  # remembers
    assert counted == {"load": 3, "outputs": 4, "store": 3}


def test_rows_are_not_looked_up_in_a_search(scene, monkeypatch):
    np.save(scene.folder / "q.npy", np.random.default_rng(0).standard_normal((7, 24)).astype(np.float32))
    asked = SearchSettings(scene.folder / "db.bin", queries=scene.folder / "q.npy", rerank=2)
    expected = search(asked)
    monkeypatch.setattr("sdc.retrieve.index.delta.merged_view.MergedView.positions", None)
    assert search(asked) == expected
