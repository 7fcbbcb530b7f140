"""model.safetensors: NumPy gives PyTorch's outputs, and a damaged file is refused."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from sdc.errors import SdcError, UsageError
from sdc.train.head import make_head
from sdc.train.model import Model

GOLDEN = Path(__file__).parent / "golden"


def metadata(**more):
    return {"method": "sdc", "settings": {"bits": 16}, "features": {"path": None}, "training": {"rows": 9}, **more}


def trained_head(hidden, residual=False):
    """A head whose batch norm has seen data, so that all its statistics count."""
    head = make_head(12, 16, hidden, seed=3, residual=residual)
    with torch.no_grad():
        if residual:
            head.output.weight.uniform_(-1, 1)
        head.norm.weight.uniform_(0.5, 2)
        head.norm.bias.uniform_(-1, 1)
    for _ in range(5):
        head(torch.randn(32, 12) * 3 + 1)
    return head.eval()


def model_of(head):
    tensors = {name: value.numpy() for name, value in head.state_dict().items()}
    del tensors["norm.num_batches_tracked"]
    return Model(tensors, metadata())


HEADS = {"linear": (0,), "mlp": (20,), "residual": (20, True)}


@pytest.mark.parametrize("head", HEADS)
def test_outputs_are_those_of_the_torch_head(head):
    head = trained_head(*HEADS[head])
    x = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    with torch.no_grad():
        expected = head(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model_of(head).outputs(x), expected, atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
def test_another_mean_shifts_what_the_batch_norm_gives(head):
    head = trained_head(*HEADS[head])
    model = model_of(head)
    x = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32) + 1
    with torch.no_grad():
        projected = head.project(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model.projections(x), projected, atol=2e-5)
    recentered = model.recentered(projected.mean(0))
    bias = model.tensors["norm.bias"]
    np.testing.assert_allclose(recentered.outputs(x).mean(0), bias, atol=1e-5)
    np.testing.assert_allclose(recentered.outputs(x).std(0), model.outputs(x).std(0), rtol=1e-4)
    assert recentered.fingerprint != model.fingerprint
    assert recentered.metadata == model.metadata
    with pytest.raises(SdcError, match=r"norm\.running_mean should be \(16,\)"):
        model.recentered(np.zeros(8))


def test_a_head_without_batch_norm_says_so():
    model = Model({"output.bias": np.zeros(8, np.float32)}, metadata())
    assert not model.normalizes
    assert model_of(trained_head(0)).normalizes
    with pytest.raises(SdcError, match="not a hash head"):
        model.recentered(np.zeros(8))


def test_float16_features_are_taken_as_their_values():
    model = model_of(trained_head(20))
    x = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float16)
    np.testing.assert_array_equal(model.outputs(x), model.outputs(x.astype(np.float32)))


def test_a_bias_alone_keeps_the_features():
    model = Model({"output.bias": np.array([0, 1, 0], np.float32)}, metadata())
    assert (model.bits, model.dimension) == (3, 3)
    np.testing.assert_array_equal(model.outputs(np.array([[1.0, 2, 3]])), [[1, 3, 3]])


@pytest.mark.parametrize("hidden", [None, 0, 20])
def test_a_phase_turns_outputs_into_cosines(hidden):
    tensors = {"output.bias": np.full(16, 0.5)} if hidden is None else model_of(trained_head(hidden)).tensors
    plain = Model(tensors, metadata())
    phase = np.linspace(-3, 3, 16, dtype=np.float32)
    model = Model({**tensors, "cosine.phase": phase}, metadata())
    x = np.random.default_rng(0).standard_normal((50, model.dimension)).astype(np.float32)
    np.testing.assert_allclose(model.outputs(x), np.cos(plain.outputs(x).astype(float) + phase), atol=1e-5)
    assert model.outputs(x).dtype == np.float32
    assert model.fingerprint != plain.fingerprint


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = model_of(trained_head(20))
    again = Model.load(model.save(tmp_path / "model.safetensors"))
    assert again.fingerprint == model.fingerprint
    assert again.metadata == model.metadata
    x = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    np.testing.assert_array_equal(again.outputs(x), model.outputs(x))


def test_the_path_of_the_features_is_no_part_of_the_fingerprint():
    tensors = {"output.bias": np.zeros(8, np.float32)}
    here, there = (Model(tensors, metadata(features={"path": path})) for path in ("a", "b"))
    other = Model({"output.bias": np.ones(8, np.float32)}, metadata())
    assert here.fingerprint == there.fingerprint != other.fingerprint


def test_a_wrong_dimension_is_named():
    with pytest.raises(UsageError, match="takes features of 12 dimensions, found an array of 4 × 11"):
        model_of(trained_head(0)).outputs(np.zeros((4, 11), np.float32))


def test_golden_file_still_reads():
    model = Model.load(GOLDEN / "model.safetensors")
    expected = json.loads((GOLDEN / "model.json").read_text())
    assert model.fingerprint == expected["fingerprint"]
    np.testing.assert_allclose(model.outputs(np.array(expected["features"])), expected["outputs"], atol=1e-5)


def test_what_is_no_model_is_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    with pytest.raises(SdcError, match=r"make one with `sdc train`"):
        Model.load(path)
    path.write_bytes(b"")
    with pytest.raises(SdcError, match="not a readable model"):
        Model.load(path)
    save_file({"w": np.zeros(3, np.float32)}, path)
    with pytest.raises(SdcError, match="not a model made by `sdc train`"):
        Model.load(path)
    save_file({"w": np.zeros(3, np.float32)}, path, metadata={"sdc": json.dumps({"schema": 99})})
    with pytest.raises(SdcError, match="schema 99"):
        Model.load(path)
    with pytest.raises(SdcError, match=r"output.weight should be"):
        Model({"output.weight": np.zeros((7, 3), np.float32), "output.bias": np.zeros(8, np.float32)}, {})
    with pytest.raises(SdcError, match=r"cosine.phase should be \(8,\), found \(7,\)"):
        Model({"cosine.phase": np.zeros(7, np.float32), "output.bias": np.zeros(8, np.float32)}, {})
    with pytest.raises(SdcError, match=r"tensors unknown to this sdc, hidden.bias, norms.mean: upgrade"):
        Model({name: np.zeros(8, np.float32) for name in ("output.bias", "hidden.bias", "norms.mean")}, {})


def test_every_flipped_bit_and_truncation_is_refused(tmp_path):
    good = model_of(trained_head(20)).save(tmp_path / "good.safetensors").read_bytes()
    path = tmp_path / "bad.safetensors"
    rng = random.Random(0)
    header = struct.unpack("<Q", good[:8])[0]
    places = [rng.randrange(8 + header) for _ in range(150)] + [rng.randrange(len(good)) for _ in range(150)]
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(SdcError):
            Model.load(path)
    for length in rng.sample(range(len(good)), 50):
        path.write_bytes(good[:length])
        with pytest.raises(SdcError):
            Model.load(path)
