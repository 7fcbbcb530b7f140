"""Presets and the checks on settings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from sdc.errors import UsageError
from sdc.train.calibrations import inverse_cdf
from sdc.train.presets import PRESETS, make_recipe


def test_the_papers_presets():
    """The columns of the paper's supplement, and the authors' code on category sets."""
    expected = {
        "paper-category": ("mlp", 4096, "halves", 64, 100, 80, 1e-4, 5e-4, 1.0),
        "paper-instance": ("linear", 0, "halves", 256, 20, 10, 1e-4, 5e-4, 0.01),
        "paper-code": ("mlp", 0, "halves", 64, 100, 80, 1e-4, 1e-5, 1.0),
    }
    for preset, values in expected.items():
        r = make_recipe(preset)
        found = (r.head, r.hidden, r.pairs, r.batch_size, r.epochs, r.decay_at, r.lr, r.weight_decay,
                 r.quantization_weight)  # fmt: skip
        assert found == values, preset
        assert (r.calibration, r.loss, r.quantization) == ("beta:5,5", "l1", "cosine")


def test_a_chosen_value_replaces_the_presets():
    assert make_recipe("paper-code", epochs=3, lr=None).epochs == 3
    assert make_recipe("paper-code", epochs=3, lr=None).lr == 1e-4


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"bits": 12}, "multiple of 8"),
        ({"bits": 0}, "multiple of 8"),
        ({"method": "itk"}, "did you mean 'itq'"),
        ({"pairs": "halfs"}, "did you mean 'halves'"),
        ({"head": "conv"}, "unknown head 'conv'"),
        ({"loss": "l3"}, "unknown loss"),
        ({"quantization": "x"}, "unknown quantization"),
        ({"batchsize": 8}, "did you mean 'batch_size'"),
        ({"epochs": 0}, "epochs = 0"),
        ({"seed": 2**31}, "seed = 2147483648: must be at most"),
        ({"batch_size": 1}, "batch_size = 1"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"calibration": "bta:5,5"}, "did you mean 'beta'"),
        ({"calibration": "beta:5"}, "takes 2 numbers"),
        ({"calibration": "beta:x,y"}, "takes 2 numbers"),
        ({"calibration": "beta:0,5"}, "must be positive"),
    ],
)
def test_bad_settings_are_named(chosen, message):
    with pytest.raises(UsageError, match=message):
        make_recipe(**chosen)


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match=f"known: {', '.join(sorted(PRESETS))}"):
        make_recipe("quick")


def test_beta_is_scipys():
    u = np.linspace(0.01, 0.99, 9)
    np.testing.assert_array_equal(inverse_cdf("beta:2,3.5")(u), beta(2, 3.5).ppf(u))
