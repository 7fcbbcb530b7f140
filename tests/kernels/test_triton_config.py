"""The choice of configurations and the model of their time: pure functions, by a table of cases."""

import os

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


@pytest.mark.parametrize(
    ("shape", "stride", "taken"),
    [
        ((4096, 64), (64, 1), True),
        ((4096, 64), (128, 1), True),  # every other row
        ((4096, 64), (1, 4096), False),
        ((65536, 64), (32767, 1), True),
        ((65536, 64), (32768, 1), False),  # the last rows lie beyond 2³¹
    ],
)
def test_matrices_beyond_32_bits_are_copied(shape, stride, taken):
    assert config.addressable(torch.empty_strided(shape, stride, device="meta")) == taken


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


PRECISION = {  # a way of asking for TF32 or not, and what the kernels then do
    "nothing": (lambda: None, "tf32x3"),
    "allow_tf32": (lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True), "tf32"),
    "not allow_tf32": (lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", False), "tf32x3"),
    "high": (lambda: torch.set_float32_matmul_precision("high"), "tf32"),
    "highest": (lambda: torch.set_float32_matmul_precision("highest"), "tf32x3"),
    "matmul tf32": (lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"), "tf32"),
    "matmul ieee": (lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"), "tf32x3"),
    "all tf32": (lambda: setattr(torch.backends, "fp32_precision", "tf32"), "tf32"),
    "all ieee": (lambda: setattr(torch.backends, "fp32_precision", "ieee"), "tf32x3"),
}


@pytest.mark.parametrize("way", PRECISION)
def test_every_switch_of_pytorch_for_tf32_is_followed(way):
    ask, expected = PRECISION[way]
    # Later switches override earlier ones for good, so each is tried in a process of its own.
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ask()
            code = 0 if ops.feature_precision() == expected else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_h200_is_an_h100_with_faster_memory():
    found = {name: model.predict_rows(model.CHIPS[name], 4096, 512, 64, 16, SORT).step for name in ("H100", "H200")}
    assert found["H200"] < found["H100"]
