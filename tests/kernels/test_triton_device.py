"""The Triton kernels on a CUDA device: the interpreter's comparisons, torch.compile, CUDA graphs, no waiting."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from sdc.kernels import calibration_loss, sample_length
from sdc.kernels.gpu import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or not ops.available(torch.device("cuda")),
        reason="needs a CUDA device of compute capability 8.0 or newer",
    ),
]
OPERATORS = {"rows": ops.calibration_rows, "halves": ops.calibration_halves}
GRADIENT = {"l1": 1e-6, "l2": 5e-4, "one-sided": 1e-6}


def problem(B, d, K, pairs, dtype=torch.float32, levels=False):
    generator = torch.Generator().manual_seed(B + d + K)
    x = F.normalize(torch.randn(B, d, generator=generator))
    if levels:  # dot products are exact in every precision, so that ranks are equal, ties included
        x = torch.sign(x) / 8
    z = torch.randn(B, K, generator=generator)
    quantiles = torch.linspace(-0.6, 0.7, sample_length(B, pairs))
    return x.to(dtype).cuda(), z.cuda().requires_grad_(), quantiles.cuda()


def expected(x, z, quantiles, pairs, loss):
    """Values and gradients of eager PyTorch in float64."""
    z = z.detach().double().requires_grad_()
    terms = calibration_loss(x.double(), z, quantiles.double(), pairs=pairs, loss=loss, implementation="eager")
    gradients = [torch.autograd.grad(term, z, retain_graph=True)[0] for term in terms[1:]]
    return terms[1:], gradients


@pytest.mark.parametrize("loss", GRADIENT)
@pytest.mark.parametrize("pairs", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(2, 16, 8), (34, 50, 17), (130, 64, 65), (1000, 512, 64), (4096, 256, 512)], ids=str)
def test_values_and_gradients_given_equal_ranks(shape, dtype, pairs, loss):
    x, z, quantiles = problem(*shape, pairs, dtype, levels=True)
    terms = OPERATORS[pairs](x, z, quantiles, loss)
    wanted, gradients = expected(x, z, quantiles, pairs, loss)
    tolerances = (GRADIENT[loss] if pairs == "rows" else 1e-6, 1e-6)
    for name, term, value, gradient, tolerance in zip(
        ("calibration", "quantization"), terms, wanted, gradients, tolerances, strict=True
    ):
        assert term.item() == pytest.approx(value.item(), abs=1e-6), name
        found = torch.autograd.grad(0.7 * term, z, retain_graph=True)[0].double()
        assert (found - 0.7 * gradient).norm() <= tolerance * gradient.norm() + 1e-12, f"d {name} / d outputs"


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_real_valued_features(allow_tf32, monkeypatch):
    """Near-equal similarities may swap ranks: the loss hardly notices, one TF32 pass a little more."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", allow_tf32)
    x, z, quantiles = problem(1024, 2048, 64, "rows")
    calibration, _ = ops.calibration_rows(x, z, quantiles)
    (wanted, _), (gradient, _) = expected(x, z, quantiles, "rows", "l1")
    assert calibration.item() == pytest.approx(wanted.item(), abs=4e-6 if allow_tf32 else 1e-6)
    found = torch.autograd.grad(calibration, z)[0].double()
    assert (found - gradient).norm() <= (1e-2 if allow_tf32 else 1e-3) * gradient.norm()


def test_panels():
    x, z, quantiles = problem(16640, 64, 16, "rows", torch.float16, levels=True)
    calibration, quantization = ops.calibration_rows(x, z, quantiles)
    (calibration + quantization).backward()
    assert calibration.isfinite()
    assert z.grad.isfinite().all()
    h = F.normalize(z.detach())
    for row in (0, 511, 16639):  # three anchors, by hand
        t = (x[row].float() @ x.float().T).index_fill(0, torch.tensor([row], device="cuda"), float("inf"))
        order = torch.sort(t, stable=True)[1][:-1]
        difference = (h @ h[row])[order] - quantiles
        slopes = torch.ops.sdc.calibration_rows(x, z.detach(), quantiles, "l1", True)[2]
        assert (slopes[row, order] == difference.sign()).float().mean() > 0.999


@pytest.mark.parametrize("pairs", OPERATORS)
def test_a_step_never_waits_for_the_device(pairs):
    x, z, quantiles = problem(256, 128, 64, pairs)
    sum(OPERATORS[pairs](x, z, quantiles)).backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(OPERATORS[pairs](x, z, quantiles)).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("pairs", OPERATORS)
def test_captured_in_a_cuda_graph(pairs):
    x, z, quantiles = problem(256, 128, 64, pairs)

    def step():
        z.grad = None
        terms = OPERATORS[pairs](x, z, quantiles)
        sum(terms).backward()
        return torch.stack([term.detach() for term in terms]), z.grad

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values, gradient = step()
    for seed in range(3):
        with torch.no_grad():
            z.copy_(torch.randn(z.shape, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        found = values.clone(), gradient.clone()
        for name, a, b in zip(("values", "gradient"), found, step(), strict=True):
            assert torch.equal(a, b), f"{name} of replay {seed}"


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("pairs", OPERATORS)
def test_torch_compile(pairs, mode):
    x, z, quantiles = problem(128, 64, 32, pairs)

    def loss(z):
        calibration, quantization = OPERATORS[pairs](x, torch.tanh(z), quantiles)
        return calibration + 0.3 * quantization

    compiled = torch.compile(loss, mode=mode, fullgraph=True)
    for _ in range(4):  # reduce-overhead warms up, records, replays
        gradients = [torch.autograd.grad(function(z), z)[0].clone() for function in (loss, compiled)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


def test_two_streams_do_not_share_scratch():
    x, z, quantiles = problem(512, 64, 32, "halves")
    expected_terms = torch.stack(ops.calibration_halves(x, z.detach(), quantiles))
    streams = [torch.cuda.Stream() for _ in range(2)]
    found = []
    torch.cuda.synchronize()
    for _ in range(20):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(torch.stack(ops.calibration_halves(x, z.detach(), quantiles)))
    torch.cuda.synchronize()
    assert all(torch.equal(terms, expected_terms) for terms in found)


def test_twice_gives_the_same_bits():
    x, z, quantiles = problem(700, 300, 64, "rows")
    gradients = []
    for _ in range(2):
        gradients.append(torch.autograd.grad(sum(ops.calibration_rows(x, z, quantiles)), z)[0])
    assert torch.equal(*gradients)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("pairs", OPERATORS)
def test_tensors_on_another_than_the_current_device(pairs):
    x, z, quantiles = problem(64, 32, 16, pairs)
    here = torch.stack(OPERATORS[pairs](x, z, quantiles)).cpu()
    there = [tensor.detach().to("cuda:1").requires_grad_(tensor.requires_grad) for tensor in (x, z, quantiles)]
    terms = OPERATORS[pairs](*there)
    sum(terms).backward()
    assert torch.equal(torch.stack(terms).cpu(), here)
