"""The Triton operators against the float64 reference, interpreted."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdc.kernels import calibration_loss, reference, sample_length
from sdc.kernels.gpu import config, launch, ops

OPERATORS = {"rows": ops.calibration_rows, "halves": ops.calibration_halves}
LOSSES = ("l1", "l2", "one-sided")
QUICK_LOSSES = ("l1", *(pytest.param(loss, marks=pytest.mark.slow) for loss in LOSSES[1:]))
VALUE = 1e-6  # absolute
GRADIENT = {"l1": 1e-6, "l2": 5e-4, "one-sided": 1e-6}  # relative; l2's slopes are float16
GRADIENT_HALVES = 1e-6  # its slopes are float32


def batch(B, d, K, dtype=torch.float32, kind="random", seed=0):
    """Features of one of several kinds, and random outputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, d, generator=generator)
    if kind == "clusters":
        centres = torch.randn(4, d, generator=generator)
        x = centres[torch.randint(4, (B,), generator=generator)] + 0.3 * x
    x = F.normalize(x)
    if kind == "levels":  # few-valued, and exact in every type: dot products are multiples of 1/64
        x = torch.sign(x) / 8
    if kind == "duplicates":
        x = (torch.sign(x) / 8)[torch.randint(max(2, B // 4), (B,), generator=generator)]
    if kind == "constant":
        x = (torch.sign(x[:1]) / 8).repeat(B, 1)
    return x.to(dtype), torch.randn(B, K, generator=generator)


def targets(B, pairs):
    return torch.linspace(-0.6, 0.7, sample_length(B, pairs)).pow(3)


def ranking(features, outputs, pairs):
    """The ranks the operator itself gives: with l2 and targets 0, 1, 2 … a slope is 2 (s − rank)."""
    B = len(features)
    apart = torch.arange(sample_length(B, pairs), dtype=torch.float32)
    h = F.normalize(outputs)
    if pairs == "rows":
        slopes = torch.ops.sdc.calibration_rows(features, outputs, apart, "l2", True)[2][:, :B].float()
        ranks = torch.round(h @ h.T - slopes / 2).long().numpy()
        return [sorted(((i, j) for j in range(B) if j != i), key=lambda p: ranks[p]) for i in range(B)], ranks
    slopes = torch.ops.sdc.calibration_halves(features, outputs, apart, "l2")[2]
    s = (h[: B // 2] * h[B // 2 :]).sum(1)
    ranks = torch.round(s - slopes / 2).long().numpy()
    return [[(i, i + B // 2) for i in np.argsort(ranks)]], ranks


def check(features, outputs, pairs, loss):
    """Both values and both gradients, each by its name, given the operator's own ranks."""
    B = len(features)
    quantiles = targets(B, pairs)
    ranks = ranking(features, outputs, pairs)[0]
    z = outputs.clone().requires_grad_()
    calibration, quantization = OPERATORS[pairs](features, z, quantiles, loss)
    arguments = (features.double().numpy(), outputs.double().numpy(), quantiles.double().numpy())
    options = {"pairs": pairs, "loss": loss, "ranking": ranks}
    alone = reference.calibration_loss(*arguments, **options, quantization_weight=0.0)
    both = reference.calibration_loss(*arguments, **options, quantization_weight=1.0)
    assert calibration.item() == pytest.approx(alone.calibration, abs=VALUE)
    assert quantization.item() == pytest.approx(alone.quantization, abs=VALUE)
    tolerance = GRADIENT[loss] if pairs == "rows" else GRADIENT_HALVES
    for name, term, expected, allowed in (
        ("d calibration / d outputs", 0.7 * calibration, 0.7 * alone.gradient, tolerance),
        ("d quantization / d outputs", -2 * quantization, -2 * (both.gradient - alone.gradient), 1e-6),
    ):
        (found,) = torch.autograd.grad(term, z, retain_graph=True)
        error = np.linalg.norm(found.double().numpy() - expected)
        assert error <= allowed * np.linalg.norm(expected) + 1e-12, f"{name}: off by {error:.2e}"


QUICK = [(2, 8, 16), (18, 50, 17)]
LARGE = [(16, 32, 16), (34, 50, 17), (64, 48, 33), (100, 70, 65), (130, 64, 16)]


# One of each kind is quick; the interpreter takes seconds for what a device does in microseconds.
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pairs", OPERATORS)
@pytest.mark.parametrize("shape", [*QUICK, *(pytest.param(shape, marks=pytest.mark.slow) for shape in LARGE)], ids=str)
def test_values_and_gradients(shape, pairs, loss):
    check(*batch(*shape), pairs, loss)


@pytest.mark.parametrize("pairs", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(dtype, pairs):
    check(*batch(16, 24, 16, dtype, kind="clusters"), pairs, "l1")


def test_an_odd_batch():
    check(*batch(17, 24, 65), "rows", "l1")


@pytest.mark.parametrize(
    "kind", ["duplicates", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("levels", "constant"))]
)
@pytest.mark.parametrize("pairs", OPERATORS)
def test_exact_ties_are_stable(kind, pairs):
    features, outputs = batch(20, 64, 16, torch.float16, kind)
    assert ranking(features, outputs, pairs)[0] == reference.rank_samples(features.double().numpy(), pairs)
    check(features, outputs, pairs, "l1")


@pytest.mark.parametrize("B", [33, pytest.param(130, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["random", "clusters"])
def test_ranks_are_those_of_float64(B, kind):
    features, outputs = batch(B, 96, 16, kind=kind)
    _, found = ranking(features, outputs, "rows")
    expected = np.empty_like(found)
    for i, sample in enumerate(reference.rank_samples(features.double().numpy(), "rows")):
        for rank, (_, j) in enumerate(sample):
            expected[i, j] = rank
    off_diagonal = ~np.eye(B, dtype=bool)
    moved = np.abs(found - expected)[off_diagonal]
    assert (moved > 0).mean() <= 1e-3
    assert moved.mean() <= 1


@pytest.mark.parametrize("pairs", OPERATORS)
def test_zero_outputs(pairs):
    """As with `normalize`: the hash is 0, and its gradient is divided by 1e-12."""
    features, outputs = batch(12, 16, 16)
    outputs[3] = 0
    z = outputs.clone().requires_grad_()
    calibration, quantization = OPERATORS[pairs](features, z, targets(12, pairs))
    (calibration + quantization).backward()
    ranks = ranking(features, outputs, pairs)[0]
    expected = reference.calibration_loss(
        features.numpy(), outputs.numpy(), targets(12, pairs).numpy(), pairs=pairs, ranking=ranks
    )
    assert calibration.item() == pytest.approx(expected.calibration, abs=VALUE)
    assert quantization.item() == pytest.approx(expected.quantization, abs=VALUE)
    for found, row in zip(z.grad.double().numpy(), expected.gradient, strict=True):
        assert np.linalg.norm(found - row) <= 2e-6 * np.linalg.norm(row)


def test_no_slope_at_equality():
    z = torch.eye(2, 16).requires_grad_()
    for operator in OPERATORS.values():
        for loss in LOSSES:
            calibration, _ = operator(torch.eye(2, 8), z, torch.zeros(1), loss)
            assert torch.autograd.grad(calibration, z)[0].abs().max() == 0


def test_slopes_are_wholly_written(poisoned):
    features, outputs = batch(19, 24, 16)
    for loss, allowed in (("l1", {-1, 0, 1}), ("one-sided", {0, 1})):
        slopes = torch.ops.sdc.calibration_rows(features, outputs, targets(19, "rows"), loss, True)[2]
        assert set(slopes.flatten().tolist()) == allowed
        assert (slopes.diagonal() == 0).all()
    slopes = torch.ops.sdc.calibration_rows(features, outputs, targets(19, "rows"), "l2", True)[2]
    assert slopes.isfinite().all()
    assert (slopes.diagonal() == 0).all()


@pytest.mark.parametrize("pairs", OPERATORS)
def test_scratch_is_not_read_before_it_is_written(pairs, poisoned):
    check(*batch(18, 20, 17), pairs, "l1")


def test_the_ticket_returns_to_zero():
    features, outputs = batch(30, 24, 16)
    N = 15
    chosen = config.halves_config(90, N, 16)
    forward = launch.halves_forward(chosen, "l1")
    ticket = torch.zeros((), dtype=torch.int32)
    expected = ops.calibration_halves(features, outputs, targets(30, "halves"))
    for _ in range(2):
        out = torch.full((2,), float("nan"))
        forward.kernel[(-(-N // chosen.pairs),)](
            features, outputs, targets(30, "halves"), torch.empty(3, N), torch.empty(N), out[0], out[1], ticket,
            24, 16, N, 24, 16, **forward.options,
        )  # fmt: skip
        assert ticket.item() == 0
        assert out.tolist() == [term.item() for term in expected]


@pytest.mark.parametrize("loss", QUICK_LOSSES)
def test_panels_agree_with_whole_matrices(loss, monkeypatch, poisoned):
    features, outputs = batch(37, 24, 16)
    arguments = (features, outputs, targets(37, "rows"), loss, True)
    whole = torch.ops.sdc.calibration_rows(*arguments)
    monkeypatch.setattr(config, "LARGEST_SORT", 16)
    monkeypatch.setattr(config, "PANEL_BYTES", 10 * 32 * 37)  # ten rows a panel, seven in the last
    panels = torch.ops.sdc.calibration_rows(*arguments)
    assert config.panel_rows(37) == 10
    for name, found, expected in zip(("calibration", "quantization"), panels, whole, strict=False):
        assert found.item() == pytest.approx(expected.item(), abs=VALUE), name
    assert torch.equal(panels[2], whole[2])


@pytest.mark.parametrize("loss", QUICK_LOSSES)
def test_more_halves_than_one_program_sorts(loss, monkeypatch, poisoned):
    features, outputs = batch(40, 24, 16)
    arguments = (features, outputs, targets(40, "halves"), loss)
    few = torch.ops.sdc.calibration_halves(*arguments)
    monkeypatch.setattr(config, "LARGEST_HALVES", 16)
    for name, found, expected in zip(
        ("calibration", "quantization", "slopes"), torch.ops.sdc.calibration_halves(*arguments), few, strict=True
    ):
        torch.testing.assert_close(found, expected, atol=VALUE, rtol=0, msg=name)
    check(features, outputs, "halves", loss)


def test_views_are_read_where_they_lie():
    features, outputs = batch(14, 24, 16)
    expected = ops.calibration_rows(features, outputs, targets(14, "rows"))
    wide, deep = torch.zeros(14, 40), outputs.T.contiguous().T
    wide[:, :24] = features
    for found in (
        ops.calibration_rows(wide[:, :24], outputs, targets(14, "rows")),
        ops.calibration_rows(features, deep, targets(14, "rows")),
        ops.calibration_rows(features.double(), outputs.double(), targets(14, "rows").double()),
    ):
        assert torch.equal(torch.stack(found), torch.stack(expected))


def test_without_gradient_no_slopes():
    features, outputs = batch(10, 16, 16)
    arguments = (features, outputs, targets(10, "rows"), "l1")
    *values, slopes = torch.ops.sdc.calibration_rows(*arguments, False)
    assert slopes.numel() == 0
    assert values == list(torch.ops.sdc.calibration_rows(*arguments, True)[:2])


@pytest.mark.parametrize("pairs", OPERATORS)
def test_operators_are_well_formed(pairs):
    """Schema, fake implementation, gradient registration and tracing, as PyTorch checks them."""
    features, outputs = batch(6, 16, 16)
    operator = {"rows": torch.ops.sdc.calibration_rows, "halves": torch.ops.sdc.calibration_halves}[pairs]
    arguments = (features, outputs.requires_grad_(), targets(6, pairs), "l1", *([True] if pairs == "rows" else []))
    torch.library.opcheck(operator.default, arguments)


@pytest.mark.parametrize("pairs", OPERATORS)
def test_traced_by_torch_compile(pairs):
    features, outputs = batch(8, 16, 16)
    quantiles = targets(8, pairs)

    def step(z):
        calibration, quantization = OPERATORS[pairs](features, torch.tanh(z), quantiles)
        return calibration + 0.3 * quantization

    gradients = []
    for function in (step, torch.compile(step, backend="aot_eager", fullgraph=True)):
        z = outputs.clone().requires_grad_()
        function(z).backward()
        gradients.append(z.grad)
    assert torch.equal(*gradients)


def test_more_outputs_than_fit():
    with pytest.raises(ValueError, match="512"):
        ops.calibration_rows(torch.ones(4, 8), torch.ones(4, 513), torch.zeros(3))


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 12), st.integers(0, 1), st.integers(1, 70), st.integers(8, 70),
    st.sampled_from(LOSSES), st.sampled_from(list(OPERATORS)), st.integers(0, 100),
)  # fmt: skip
def test_any_shape(half, odd, d, K, loss, pairs, seed):
    B = 2 * half + (odd if pairs == "rows" else 0)
    check(*batch(B, d, K, seed=seed), pairs, loss)


@pytest.mark.parametrize("pairs", ["halves", pytest.param("rows", marks=pytest.mark.slow)])
def test_fifty_steps_of_training(pairs):
    """A linear head trained by the kernels and by eager float64 PyTorch: the losses agree at each step."""
    features, _ = batch(16, 24, 8, kind="clusters")
    start = 0.3 * torch.randn(24, 16, generator=torch.Generator().manual_seed(1))
    curves = {}
    for name, dtype in (("fused", torch.float32), ("eager", torch.float64)):
        head = start.clone().to(dtype).requires_grad_()
        optimizer = torch.optim.SGD([head], lr=0.2)
        curves[name] = []
        for _ in range(50):
            z = features.to(dtype) @ head
            if name == "fused":
                calibration, quantization = OPERATORS[pairs](features, z, targets(16, pairs))
            else:
                terms = calibration_loss(
                    features.to(dtype), z, targets(16, pairs).to(dtype), pairs=pairs, implementation="eager"
                )
                calibration, quantization = terms.calibration, terms.quantization
            loss = calibration + 0.1 * quantization
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curves[name].append(loss.item())
    np.testing.assert_allclose(curves["fused"], curves["eager"], atol=2e-6)
    assert curves["fused"][-1] < 0.8 * curves["fused"][0]
