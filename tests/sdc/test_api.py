"""sdc.Hasher and sdc.Index on arrays in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdc
from sdc.errors import SdcError, UsageError

RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((8, 24)) * 2
X = (CENTRES[RNG.integers(8, size=300)] + RNG.standard_normal((300, 24))).astype(np.float32)


def test_the_public_names():
    assert sdc.__all__ == ["Hasher", "Index", "SdcError", "UsageError", "__version__"]
    assert dir(sdc) == sdc.__all__
    assert (sdc.SdcError, sdc.UsageError) == (SdcError, UsageError)
    from sdc import kernels, retrieve
    from sdc.retrieve.evaluate import average_precision

    assert kernels.__all__ == [
        "LOSSES", "PAIRS", "QUANTIZATIONS",
        "Loss", "best_scores", "calibration_loss", "hamming_available", "hamming_nearer", "hamming_nearest",
        "key_positions", "linear", "quantile_table", "refine", "sample_length", "table_scores", "teacher_order",
        "whole_products",
    ]  # fmt: skip
    assert average_precision(np.array([0, 1]), np.array([True, False])) == 1.0
    assert retrieve.__name__ == "sdc.retrieve"
    with pytest.raises(AttributeError, match="Hashr"):
        _ = sdc.Hashr


def test_fit_encode_build_search():
    hasher = sdc.Hasher(bits=32, method="sdc", epochs=10, batch_size=64).fit(X)
    codes = hasher.encode(X)
    assert codes.dtype == np.uint8
    assert codes.shape == (300, 4)
    np.testing.assert_array_equal(np.unpackbits(codes, axis=1, bitorder="little"), hasher.outputs(X) > 0)
    distances, rows = sdc.Index.build(codes).search(codes[:5], k=10)
    assert distances.dtype == np.int32
    assert rows.dtype == np.int64
    assert (distances[:, 0] == 0).all()
    assert distances.shape == rows.shape == (5, 10)


def test_torch_and_numpy_give_the_same_codes():
    settings = {"bits": 16, "epochs": 2, "batch_size": 64}
    from_numpy = sdc.Hasher(**settings).fit(X)
    from_torch = sdc.Hasher(**settings).fit(torch.from_numpy(X))
    np.testing.assert_array_equal(from_numpy.encode(X), from_torch.encode(torch.from_numpy(X)))
    assert from_torch.encode(torch.from_numpy(X).bfloat16()).shape == (300, 2)


def test_saved_and_loaded(tmp_path):
    hasher = sdc.Hasher(bits=16, method="itq").fit(X)
    again = sdc.Hasher.load(hasher.save(tmp_path / "m.safetensors"))
    np.testing.assert_array_equal(again.encode(X), hasher.encode(X))
    assert again.recipe == hasher.recipe


def test_mistakes_are_said():
    with pytest.raises(UsageError, match="not trained"):
        sdc.Hasher().encode(X)
    with pytest.raises(UsageError, match="float matrix"):
        sdc.Hasher().fit(X[0])
    with pytest.raises(UsageError, match="float matrix"):
        sdc.Hasher().fit(X.astype(int))
    with pytest.raises(SdcError, match="0 rows"):
        sdc.Hasher().fit(X[:0])
    bad = X.copy()
    bad[3, 1], bad[7] = np.nan, np.inf
    with pytest.raises(SdcError, match=r"NaN or Inf in 2 of 300 embeddings \(rows 3, 7\)"):
        sdc.Hasher().fit(bad)
    with pytest.raises(UsageError, match="did you mean 'epochs'"):
        sdc.Hasher(epoch=3)
    with pytest.raises(UsageError, match="24 dimensions"):
        sdc.Hasher(bits=16, method="lsh").fit(X).encode(X[:, :20])
