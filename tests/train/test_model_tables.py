"""Byte tables in model.safetensors: kept whole, part of what a model is, and refused where they do not fit."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from sdc.errors import SdcError
from sdc.files import checksum
from sdc.train import ByteTables, CodeTables, Model

BITS, DIMENSION = 16, 12
X = np.random.default_rng(9).standard_normal((200, DIMENSION)).astype(np.float32)


def byte_tables(seed, bytes_=BITS // 8, dimension=DIMENSION):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((bytes_, 256, dimension)) / 5
    made = ByteTables.on_grid(vectors, rng.standard_normal(dimension) / 10, 0.8)
    return replace(made, shortest=0.1, longest=2.0)


TABLES = CodeTables(byte_tables(1), byte_tables(2), 0.03, 1.5, 3)


def model_with(tables, **more):
    rng = np.random.default_rng(0)
    tensors = {"output.weight": rng.standard_normal((BITS, DIMENSION)), "output.bias": rng.standard_normal(BITS)}
    return Model(tensors, {"method": "lsh", "settings": {"bits": BITS}, "training": {}, **more}, tables)


@pytest.mark.parametrize("tables", [TABLES, replace(TABLES, encoder=None), None], ids=["both", "decoder", "none"])
def test_saved_and_loaded_a_model_does_the_same(tmp_path, tables):
    model = model_with(tables)
    again = Model.load(model.save(tmp_path / "model.safetensors"))
    assert again.fingerprint == model.fingerprint
    assert again.metadata == model.metadata
    assert (again.tables is None) == (tables is None)
    for query in (False, True):
        np.testing.assert_array_equal(again.encode(X, query=query), model.encode(X, query=query))
    if tables is not None:
        codes = model.encode(X)
        lengths = tables.decoder.lengths(codes)
        assert again.tables.figures() == tables.figures()
        np.testing.assert_array_equal(again.tables.decoder.lengths(codes), lengths)
        scores = again.tables.decoder.scores(X[:5], codes, lengths)
        np.testing.assert_array_equal(scores, tables.decoder.scores(X[:5], codes, lengths))


def changed(tables, part, **changes):
    return replace(tables, **{part: replace(getattr(tables, part), **changes)})


OTHERS = {
    "no tables": None,
    "no encoder": replace(TABLES, encoder=None),
    "another decoder": replace(TABLES, decoder=byte_tables(3)),
    "another encoder": replace(TABLES, encoder=byte_tables(3)),
    "another mean": changed(TABLES, "decoder", mean=TABLES.decoder.mean + np.float32(0.1)),
    "another scale": changed(TABLES, "encoder", scale=TABLES.encoder.scale / 2),
    "another variance": changed(TABLES, "encoder", variance=0.7),
    "other lengths": changed(TABLES, "decoder", longest=3.0),
    "another price": replace(TABLES, price=0.04),
    "another deviation": replace(TABLES, deviation=1.4),
    "more perturbations": replace(TABLES, perturbations=4),
}


def test_other_tables_give_another_fingerprint():
    fingerprints = {model_with(tables).fingerprint for tables in (TABLES, *OTHERS.values())}
    assert len(fingerprints) == len(OTHERS) + 1


def test_recentering_leaves_the_tables():
    tensors = {
        "output.bias": np.zeros(BITS),
        **{f"norm.{name}": np.ones(BITS) for name in ("running_mean", "running_var", "weight", "bias")},
    }
    tables = CodeTables(byte_tables(1, dimension=BITS))
    recentered = Model(tensors, {"method": "sdc"}, tables).recentered(np.zeros(BITS, np.float32))
    assert recentered.tables is tables


def sealed(path, figures, arrays=None):
    """model.safetensors with other figures, or arrays, of its tables, and checksums that fit as far as they can."""
    tensors = load_file(path)
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(json.loads(file.read(length))["__metadata__"]["sdc"])
    lasting = {name: value for name, value in header.items() if name not in ("schema", "fingerprint", "checksum")}
    metadata = {**lasting, "tables": figures}
    header = {**header, **metadata, "checksum": checksum(json.dumps(metadata, sort_keys=True).encode())}
    path.write_bytes(save({**tensors, **(arrays or {})}, metadata={"sdc": json.dumps(header)}))


FIGURES = TABLES.figures()
WRONG_FIGURES = {
    "not a table": 7,
    "no decoder": {name: value for name, value in FIGURES.items() if name != "decoder"},
    "no price": {name: value for name, value in FIGURES.items() if name != "price"},
    "no scale": {**FIGURES, "decoder": {"variance": 1.0, "shortest": 0.0, "longest": 1.0}},
    "a word": {**FIGURES, "price": "cheap"},
    "a negative price": {**FIGURES, "price": -0.1},
    "no number": {**FIGURES, "price": float("nan")},
    "no deviation": {**FIGURES, "deviation": 0.0},
    "scale 0": {**FIGURES, "decoder": {**FIGURES["decoder"], "scale": 0.0}},
    "lengths the wrong way round": {**FIGURES, "decoder": {**FIGURES["decoder"], "shortest": 5.0}},
    "another price": {**FIGURES, "price": 0.5},
    "null": {**FIGURES, "encoder": None},
}
WRONG_ARRAYS = {
    "another dimension": {"tables.decoder.mean": np.zeros(DIMENSION + 1, np.float32)},
    "fewer values": {"tables.decoder.vectors": np.zeros((2, 255, DIMENSION), np.int16)},
    "an encoder of fewer bytes": {"tables.encoder.vectors": np.zeros((1, 256, DIMENSION), np.int16)},
    "floats": {"tables.encoder.vectors": np.zeros((2, 256, DIMENSION), np.float32)},
    "another vector": {"tables.encoder.vectors": TABLES.encoder.vectors + np.int16(1)},
}


def refusal(path):
    with pytest.raises(SdcError) as refused:
        Model.load(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("wrong", WRONG_FIGURES)
def test_damaged_figures_are_refused(tmp_path, wrong):
    path = model_with(TABLES).save(tmp_path / "model.safetensors")
    sealed(path, FIGURES)
    Model.load(path)
    sealed(path, WRONG_FIGURES[wrong])
    refusal(path)


@pytest.mark.parametrize("wrong", WRONG_ARRAYS)
def test_damaged_arrays_are_refused(tmp_path, wrong):
    path = model_with(TABLES).save(tmp_path / "model.safetensors")
    sealed(path, FIGURES, WRONG_ARRAYS[wrong])
    refusal(path)


def test_tables_that_do_not_fit_the_head_are_refused():
    for shape in ((3, DIMENSION), (2, DIMENSION + 1)):
        with pytest.raises(SdcError, match="not a hash head: byte tables"):
            model_with(CodeTables(byte_tables(1, *shape)))


def test_every_flipped_bit_is_refused(tmp_path):
    good = model_with(TABLES).save(tmp_path / "good.safetensors").read_bytes()
    path, rng = tmp_path / "bad.safetensors", random.Random(0)
    header = struct.unpack("<Q", good[:8])[0]
    places = [rng.randrange(8 + header) for _ in range(100)] + [rng.randrange(len(good)) for _ in range(60)]
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(SdcError):
            Model.load(path)


def test_inspect_says_that_damaged_tables_are_not_whole(tmp_path):
    from sdc.api import inspect

    path = model_with(TABLES, training={"rows": 9, "epochs": 0, "loss": None}).save(tmp_path / "model.safetensors")
    assert inspect(path)["whole"]
    sealed(path, WRONG_FIGURES["scale 0"])
    assert not inspect(path)["whole"]
