"""The choice of configurations and the model of their time: pure functions, by a table of cases."""

import pytest
import torch

pytest.importorskip("triton")

from sdc.kernels.gpu import config, model, ops
from sdc.kernels.gpu.config import Backward, Gram, Sort


@pytest.mark.parametrize(
    ("capability", "B", "K", "bits", "gram", "sort", "backward"),
    [
        (80, 2, 8, 16, Gram(32, 64, 16, 4, 3), Sort(4, 1), Backward(32, 64, 16, 4, 3)),
        (80, 512, 64, 32, Gram(32, 32, 16, 4, 3), Sort(9, 1), Backward(32, 64, 64, 4, 3)),
        (80, 513, 65, 16, Gram(64, 32, 16, 4, 3), Sort(10, 2), Backward(32, 64, 128, 8, 3)),
        (80, 4096, 512, 16, Gram(64, 32, 16, 4, 3), Sort(12, 8), Backward(16, 32, 512, 8, 2)),
        (86, 4096, 512, 16, Gram(64, 32, 16, 4, 3), Sort(12, 8), Backward(16, 16, 512, 8, 2)),
        (89, 1024, 256, 32, Gram(64, 16, 16, 4, 3), Sort(10, 2), Backward(32, 32, 256, 8, 3)),
        (90, 2047, 64, 16, Gram(64, 64, 16, 4, 3), Sort(11, 4), Backward(32, 64, 64, 4, 3)),
        (90, 2048, 64, 16, Gram(128, 32, 16, 8, 3), Sort(11, 4), Backward(32, 64, 64, 4, 3)),
        (100, 16384, 33, 32, Gram(128, 16, 16, 8, 3), Sort(14, 16), Backward(32, 64, 64, 4, 3)),
        (100, 50000, 33, 32, Gram(128, 16, 16, 8, 3), Sort(14, 16), Backward(32, 64, 64, 4, 3)),
        (120, 8192, 300, 16, Gram(64, 32, 16, 4, 3), Sort(13, 16), Backward(16, 16, 512, 8, 2)),
        (999, 4096, 512, 16, Gram(64, 32, 16, 4, 3), Sort(12, 8), Backward(16, 16, 512, 8, 2)),  # taken for small
    ],
)
def test_rows(capability, B, K, bits, gram, sort, backward):
    assert config.rows_config(capability, B, K, bits) == config.Rows(gram, sort, backward)


@pytest.mark.parametrize(("n", "thread_bits"), [(2, 2), (16, 2), (17, 3), (128, 5), (512, 5), (513, 6), (16384, 9)])
def test_lanes_and_warps_hold_these_bits(n, thread_bits):
    assert config.sort_config(n).thread_bits == thread_bits


@pytest.mark.parametrize(("N", "log_n", "warps"), [(1, 4, 1), (32, 5, 1), (2048, 11, 4), (4096, 12, 8), (4097, 12, 8)])
def test_halves(N, log_n, warps):
    assert config.halves_config(90, N, 64) == config.Halves(4, 256, Sort(log_n, warps), 64)


def test_out_of_range():
    with pytest.raises(ValueError, match="sm_75"):
        config.rows_config(75, 64, 64, 16)
    with pytest.raises(ValueError, match="513"):
        config.rows_config(90, 64, 513, 16)
    with pytest.raises(ValueError, match="sm_70"):
        config.halves_config(70, 32, 64)


@pytest.mark.parametrize(("B", "rows"), [(2, 2), (16384, 16384), (16385, 511), (1 << 20, 8), (1 << 24, 1)])
def test_panels_bound_the_scratch(B, rows):
    assert config.panel_rows(B) == rows


@pytest.mark.skipif(ops.INTERPRETED, reason="the interpreter takes CPU tensors")
def test_a_cpu_tensor_is_refused():
    assert not ops.available(torch.device("cpu"))
    for operator in (ops.calibration_rows, ops.calibration_halves):
        with pytest.raises(ValueError, match="CUDA"):
            operator(torch.eye(4), torch.eye(4), torch.zeros(3))


SORT = model.SortCost(instructions=4300, alu=3000, exchanges=730)


@pytest.mark.parametrize("chip", model.CHIPS.values(), ids=model.CHIPS)
def test_predictions_grow_with_the_problem(chip):
    small = model.predict_rows(chip, 1024, 512, 64, 16, SORT)
    for larger in (
        model.predict_rows(chip, 4096, 512, 64, 16, SORT),
        model.predict_rows(chip, 1024, 8192, 64, 16, SORT),
        model.predict_rows(chip, 1024, 512, 512, 16, SORT),
        model.predict_rows(chip, 1024, 512, 64, 16, model.SortCost(43000, 30000, 7300)),
    ):
        assert larger.step > small.step
    assert 0 < small.forward < small.step
    assert model.predict_rows(chip, 4096, 2048, 64, 32, SORT, tf32=True).step < (
        model.predict_rows(chip, 4096, 2048, 64, 32, SORT).step
    )
    assert model.predict_eager(chip, 4096, 2048, 64, tf32=True).step < model.predict_eager(chip, 4096, 2048, 64).step


def test_bytes_of_the_model():
    B = 4096
    assert sum(model.fused_bytes(B, 512, 64, 16).values()) / B**2 == pytest.approx(18.5, abs=0.3)
    assert sum(model.eager_bytes(B, 512, 64).values()) / B**2 == pytest.approx(142, abs=1)
