"""Which implementation runs when, and that a training run does not notice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta

from sdc.kernels import calibration_loss, cpu, quantile_table
from sdc.kernels.functional import choose
from sdc.train.head import make_head

needs_cpu_kernel = pytest.mark.skipif(not cpu.available(), reason="the CPU kernel needs g++")


def batch(b, dtype=torch.float32, d=24, k=16):
    generator = torch.Generator().manual_seed(b)
    x = F.normalize(torch.randn(b, d, generator=generator)).to(dtype)
    return x, torch.randn(b, k, generator=generator).to(dtype).requires_grad_()


@needs_cpu_kernel
@pytest.mark.parametrize(
    ("b", "pairs", "chosen"),
    [
        (2, "rows", "eager"),
        (47, "rows", "eager"),
        (48, "rows", "cpu"),
        (256, "rows", "cpu"),
        (5000, "rows", "cpu"),
        (256, "halves", "eager"),
        (256, "all", "eager"),
    ],
)
def test_the_choice_on_the_cpu(b, pairs, chosen):
    assert choose(*batch(b), pairs) == chosen


def test_without_a_compiler_the_choice_is_eager(monkeypatch):
    monkeypatch.setattr(cpu, "available", lambda: False)
    assert choose(*batch(256), "rows") == "eager"


class Fake:
    """Of a CUDA tensor, what the choice looks at."""

    def __init__(self, shape, dtype=torch.float32):
        self.shape, self.dtype, self.device = shape, dtype, torch.device("cuda", 0)

    def __len__(self):
        return self.shape[0]


@pytest.mark.parametrize(
    ("pairs", "k", "dtype", "capability", "chosen"),
    [
        ("rows", 64, torch.float32, (8, 0), "triton"),
        ("halves", 512, torch.float32, (9, 0), "triton"),
        ("rows", 64, torch.float32, (7, 5), "eager"),
        ("all", 64, torch.float32, (9, 0), "eager"),
        ("rows", 520, torch.float32, (9, 0), "eager"),
        ("rows", 64, torch.float64, (9, 0), "eager"),
    ],
)
def test_the_choice_on_a_gpu(monkeypatch, pairs, k, dtype, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose(Fake((256, 128)), Fake((256, k), dtype), pairs) == chosen


def test_an_implementation_that_does_not_fit_is_refused():
    x, z = batch(64)
    q = torch.linspace(-0.5, 0.5, 32)
    with pytest.raises(ValueError, match="is for pairs='rows' on the CPU, got 'halves'"):
        calibration_loss(x, z, q, pairs="halves", implementation="cpu")
    with pytest.raises(ValueError, match="got 'all'"):
        calibration_loss(x, z, torch.linspace(-0.5, 0.5, 64 * 63 // 2), pairs="all", implementation="triton")
    with pytest.raises(ValueError, match="need a CUDA device"):
        calibration_loss(x, z, q, pairs="halves", implementation="triton")


@needs_cpu_kernel
@pytest.mark.parametrize("loss", ["l1", "l2", "one-sided"])
def test_fifty_steps_go_the_way_of_the_float64_eager_ones(loss):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 32, generator=generator)[torch.randint(20, (512,), generator=generator)]
    x = x + torch.randn(512, 32, generator=generator)
    q = torch.from_numpy(quantile_table(beta(5, 5).ppf, 127))
    losses = {}
    for name, dtype in (("cpu", torch.float32), ("eager", torch.float64)):
        head = make_head(32, 24, 48, seed=1).to(dtype)
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        order, losses[name] = torch.Generator().manual_seed(2), []
        for _ in range(50):
            rows = x[torch.randperm(512, generator=order)[:128]].to(dtype)
            step = calibration_loss(F.normalize(rows), head(rows), q.to(dtype), loss=loss, implementation=name)
            optimizer.zero_grad()
            step.total.backward()
            optimizer.step()
            losses[name].append(step.total.item())
    assert losses["cpu"] == pytest.approx(losses["eager"], rel=2e-3)
    assert losses["cpu"][-1] < 0.9 * losses["cpu"][0]
