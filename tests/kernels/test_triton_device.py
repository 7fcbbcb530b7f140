"""The Triton kernels on a CUDA device: the interpreter's comparisons, torch.compile, CUDA graphs, no waiting.

Where two similarities or a similarity and its target nearly agree, rounding decides a rank or a slope. So each stage is
compared given what the kernel itself found before: ranks are nearly the features' order, slopes are right given the
ranks, and the gradient is right given the slopes.

With TRITON_INTERPRET=1 the comparisons of small shapes run on a CPU, which tests the tests.
"""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from sdc.kernels import calibration_loss, sample_length
from sdc.kernels.gpu import ops

DEVICE = "cpu" if ops.INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not ops.INTERPRETED and (not torch.cuda.is_available() or not ops.available(torch.device("cuda"))),
        reason="needs a CUDA device of compute capability 8.0 or newer",
    ),
]
on_a_device = pytest.mark.skipif(ops.INTERPRETED, reason="needs a CUDA device")
OPERATORS = {"rows": ops.calibration_rows, "halves": ops.calibration_halves}
GRADIENT = {"l1": 1e-6, "l2": 5e-4, "one-sided": 1e-6}
NEAR = 1e-6  # of a similarity and its target, between which rounding decides
# Triton's interpreter multiplies the bits of bfloat16 numbers as if they were whole numbers.
DTYPES = [torch.float16, *([] if ops.INTERPRETED else [torch.bfloat16]), torch.float32]
SHAPES = [(2, 16, 8), (34, 50, 17), (130, 64, 65)]
SHAPES += [] if ops.INTERPRETED else [(1000, 512, 64), (4096, 256, 512)]


def problem(B, d, K, pairs, dtype=torch.float32, levels=False):
    generator = torch.Generator().manual_seed(B + d + K)
    x = F.normalize(torch.randn(B, d, generator=generator))
    if levels:  # dot products are exact in every precision, so that ranks are equal, ties included
        x = torch.sign(x) / 8
    z = torch.randn(B, K, generator=generator)
    quantiles = torch.linspace(-0.6, 0.7, sample_length(B, pairs))
    return x.to(dtype).to(DEVICE), z.to(DEVICE).requires_grad_(), quantiles.to(DEVICE)


def expected(x, z, quantiles, pairs, loss):
    """Values and gradients of eager PyTorch in float64."""
    z = z.detach().double().requires_grad_()
    terms = calibration_loss(x.double(), z, quantiles.double(), pairs=pairs, loss=loss, implementation="eager")
    gradients = [torch.autograd.grad(term, z, retain_graph=True)[0] for term in terms[1:]]
    return terms[1:], gradients


def products(vectors, pairs):
    """(B, B) in float64, or (N,) of the halves."""
    vectors = vectors.double()
    if pairs == "rows":
        return vectors @ vectors.T
    first, second = vectors.chunk(2)
    return (first * second).sum(1)


def similarities(outputs, pairs):
    """The products of outputs of unit length."""
    return products(F.normalize(outputs.double()), pairs)


def found_slopes(x, z, quantiles, pairs, loss):
    """What the kernel leaves for its gradient, in float64: (B, B), or (N,) of the halves."""
    operator = torch.ops.sdc.calibration_rows if pairs == "rows" else torch.ops.sdc.calibration_halves
    arguments = (x, z.detach(), quantiles, loss)
    slopes = operator(*arguments, True)[2][:, : len(x)] if pairs == "rows" else operator(*arguments)[2]
    return slopes.double()


def found_ranks(x, z, pairs):
    """The ranks that the kernel gives: with l2 and targets 0, 1, 2 … a slope is 2 (s − rank)."""
    apart = torch.arange(sample_length(len(x), pairs), dtype=torch.float32, device=DEVICE)
    ranks = torch.round(similarities(z.detach(), pairs) - found_slopes(x, z, apart, pairs, "l2") / 2).long()
    return ranks.fill_diagonal_(0) if pairs == "rows" else ranks


def eager_ranks(x, pairs):
    """The ranks of a stable sort in float64; 0 on the diagonal."""
    t = products(x, pairs)
    if pairs == "rows":
        t.fill_diagonal_(float("inf"))
    order = t.sort(dim=-1, stable=True)[1]
    ranks = torch.empty_like(order).scatter_(-1, order, torch.arange(t.shape[-1], device=DEVICE).expand_as(order))
    return ranks.fill_diagonal_(0) if pairs == "rows" else ranks


def check_given_ranks(x, z, quantiles, pairs, loss, ranks):
    """The value given the ranks, the slopes likewise, and the gradient given the slopes (l1 and one-sided)."""
    calibration, _ = OPERATORS[pairs](x, z, quantiles, loss)
    gradient = torch.autograd.grad(0.7 * calibration, z)[0].double()
    difference = similarities(z.detach(), pairs) - quantiles.double()[ranks]
    counted = torch.ones_like(difference)
    if pairs == "rows":
        counted.fill_diagonal_(0)
    value = {"l1": difference.abs(), "one-sided": difference.relu()}[loss]
    assert calibration.item() == pytest.approx(((value * counted).sum() / counted.sum()).item(), abs=1e-6)

    slopes = found_slopes(x, z, quantiles, pairs, loss)
    wanted = {"l1": difference.sign(), "one-sided": (difference > 0).double()}[loss] * counted
    clear = (difference.abs() > NEAR) | (counted == 0)
    assert torch.equal(slopes[clear], wanted[clear]), "slopes"
    allowed = (0, 1, -1) if loss == "l1" else (0, 1)
    assert sum((slopes == value).sum() for value in allowed) == slopes.numel()
    assert (~clear).double().mean() < 1e-4

    exact = z.detach().double().requires_grad_()
    s = similarities(exact, pairs)
    (wanted,) = torch.autograd.grad(0.7 * (slopes * s).sum() / counted.sum(), exact)
    assert (gradient - wanted).norm() <= 1e-6 * wanted.norm() + 1e-12, "d calibration / d outputs, given the slopes"


@pytest.mark.parametrize("loss", GRADIENT)
@pytest.mark.parametrize("pairs", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_given_equal_ranks(shape, dtype, pairs, loss):
    x, z, quantiles = problem(*shape, pairs, dtype, levels=True)
    terms = OPERATORS[pairs](x, z, quantiles, loss)
    wanted, gradients = expected(x, z, quantiles, pairs, loss)
    for name, term, value in zip(("calibration", "quantization"), terms, wanted, strict=True):
        assert term.item() == pytest.approx(value.item(), abs=1e-6), name
    smooth = {"quantization": 1e-6}  # the terms whose gradient has no jumps
    if loss == "l2":
        smooth["calibration"] = GRADIENT[loss] if pairs == "rows" else 1e-6
    else:
        check_given_ranks(x, z, quantiles, pairs, loss, eager_ranks(x, pairs))
    for number, name in enumerate(("calibration", "quantization")):
        if name in smooth:
            found = torch.autograd.grad(0.7 * terms[number], z, retain_graph=True)[0].double()
            wanted_gradient = 0.7 * gradients[number]
            off = (found - wanted_gradient).norm()
            assert off <= smooth[name] * wanted_gradient.norm() + 1e-12, f"d {name} / d outputs"


@pytest.mark.parametrize("tf32", [False, True])
def test_real_valued_features(tf32):
    """Near-equal similarities may swap ranks, in one TF32 pass over a greater distance; all else is as exact."""
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        x, z, quantiles = problem(*((48, 32, 16) if ops.INTERPRETED else (1024, 2048, 64)), "rows")
        ranks = found_ranks(x, z, "rows")
        check_given_ranks(x, z, quantiles, "rows", "l1", ranks)
    finally:
        switch.fp32_precision = before
    B = len(x)
    beside = ~torch.eye(B, dtype=torch.bool, device=DEVICE)
    assert torch.equal(ranks[beside].view(B, -1).sort()[0], torch.arange(B - 1, device=DEVICE).expand(B, -1))
    t = products(x, "rows")[beside].view(B, -1)
    in_order = torch.empty_like(t).scatter_(1, ranks[beside].view(B, -1), t)
    swapped = (in_order.cummax(dim=1)[0] - in_order).max()  # how much nearer a column is that ranks lower
    # A product's two factors are rounded to 10 bits each; to 24 with three passes, and then scaled to 22 bits.
    assert swapped <= (2 * 2**-10 if tf32 else 2e-6)


@on_a_device
def test_panels():
    x, z, quantiles = problem(16640, 64, 16, "rows", torch.float16, levels=True)
    calibration, quantization = ops.calibration_rows(x, z, quantiles)
    (calibration + quantization).backward()
    assert calibration.isfinite()
    assert z.grad.isfinite().all()
    h = F.normalize(z.detach())
    for row in (0, 511, 16639):  # three anchors, by hand
        t = (x[row].float() @ x.float().T).index_fill(0, torch.tensor([row], device=DEVICE), float("inf"))
        order = torch.sort(t, stable=True)[1][:-1]
        difference = (h @ h[row])[order] - quantiles
        slopes = torch.ops.sdc.calibration_rows(x, z.detach(), quantiles, "l1", True)[2]
        assert (slopes[row, order] == difference.sign()).float().mean() > 0.999


@on_a_device
@pytest.mark.parametrize("pairs", OPERATORS)
def test_a_step_never_waits_for_the_device(pairs):
    x, z, quantiles = problem(256, 128, 64, pairs)
    sum(OPERATORS[pairs](x, z, quantiles)).backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(OPERATORS[pairs](x, z, quantiles)).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_device
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


@on_a_device
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


@on_a_device
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
    x, z, quantiles = problem(*((40, 30, 16) if ops.INTERPRETED else (700, 300, 64)), "rows")
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
