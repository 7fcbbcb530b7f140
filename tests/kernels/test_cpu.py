"""The CPU kernel against the float64 reference, against eager, and against the machines it may meet."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdc.kernels import cpu, eager, native, reference

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the CPU kernel cannot be built here (no g++)")

LOSSES = ("l1", "l2", "one-sided")
EXACT = torch.float64
# Relative error of the gradient given the same ranks; half precision as outputs rounds the gradient itself.
GRADIENT = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def batch(
    size: int, width: int, bits: int, features: torch.dtype = torch.float32, outputs: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Clustered unit features, outputs of any norm, ascending targets."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(size, width, generator=g, dtype=EXACT)
    x += torch.randn(5, width, generator=g, dtype=EXACT)[torch.randint(5, (size,), generator=g)]
    z = 3 * torch.randn(size, bits, generator=g, dtype=EXACT)
    q = (2 * torch.rand(size - 1, generator=g, dtype=EXACT) - 1).sort()[0]
    targets = EXACT if outputs == EXACT else torch.float32
    return torch.nn.functional.normalize(x).to(features), z.to(outputs), q.to(targets)


def representable(size: int, seed: int = 0) -> Tensor:
    """Unit rows of four entries ±1/2: products are exact in any order of summation, and ties abound."""
    rng = np.random.default_rng(seed)
    x = np.zeros((size, 12), dtype=np.float32)
    for row in x:
        row[rng.choice(12, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return torch.from_numpy(x)


def exact_ranks(features: Tensor) -> Tensor:
    """(B, B) ranks by a stable sort in float64; 0 on the diagonal."""
    t = features.double() @ features.double().T
    t.fill_diagonal_(float("inf"))
    order = t.sort(dim=1, stable=True)[1]
    return torch.empty_like(order).scatter_(1, order, torch.arange(len(t)).expand_as(order)).fill_diagonal_(0)


def run(
    features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str = "l1", upstream: float = 1.0
) -> tuple[Tensor, Tensor]:
    outputs = outputs.detach().requires_grad_()
    value = cpu.calibration_rows(features, outputs, quantiles, loss)
    (upstream * value).backward()
    assert outputs.grad is not None
    return value.detach(), outputs.grad


def relative(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def check_against_reference(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str) -> None:
    size = len(outputs)
    ranks = cpu.ranks(features.to(EXACT) if outputs.dtype == EXACT else features)
    ranking = [sorted(((i, j) for j in range(size) if j != i), key=lambda p: int(ranks[p])) for i in range(size)]
    expected = reference.calibration_loss(
        features.double().numpy(), outputs.double().numpy(), quantiles.double().numpy(),
        loss=loss, quantization_weight=0.0, ranking=ranking,
    )  # fmt: skip
    value, gradient = run(features, outputs, quantiles, loss, upstream=-3.0)
    assert gradient.dtype == outputs.dtype
    assert abs(value.item() - expected.calibration) <= 1e-6
    assert relative(gradient.double(), -3 * expected.gradient) <= GRADIENT[outputs.dtype]


# 2 to 192 rows are ranked by counting, to 512 by three radix passes, above by two; a panel has 128 or 256.
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("size", "bits"), [(2, 16), (3, 1), (16, 16), (33, 65), (64, 33), (130, 17), (193, 16), (257, 8)]
)
def test_value_and_gradient_match_the_reference_of_equal_ranks(size: int, bits: int, loss: str) -> None:
    check_against_reference(*batch(size, 40, bits), loss)


@pytest.mark.slow
def test_three_panels_and_two_radix_passes_match_the_reference() -> None:
    check_against_reference(*batch(530, 24, 12), "l1")


@pytest.mark.parametrize(
    ("features", "outputs"),
    [
        (torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float32),
        (torch.float32, torch.bfloat16), (torch.float16, torch.float16), (torch.float64, torch.float64),
        (torch.float16, torch.float64),
    ],
)  # fmt: skip
@pytest.mark.parametrize("loss", LOSSES)
def test_every_dtype_matches_the_reference(features: torch.dtype, outputs: torch.dtype, loss: str) -> None:
    check_against_reference(*batch(70, 32, 17, features, outputs), loss)


def test_half_precision_in_slices_equals_float32() -> None:
    x, z, q = batch(4 * cpu.PANEL + 70, 16, 4, torch.float16)
    for found, expected in zip(run(x, z, q), run(x.float(), z, q), strict=True):
        assert relative(found, expected) <= 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 90), st.integers(1, 40), st.integers(1, 70), st.sampled_from(LOSSES), st.integers(0, 9))
def test_any_shape_equals_eager_in_float64(size: int, width: int, bits: int, loss: str, seed: int) -> None:
    x, z, q = batch(size, width, bits, EXACT, EXACT, seed)
    if width == 1:
        x = x.abs()  # else t is ±1 only up to rounding, and ties are not the same for both
    value, gradient = run(x, z, q, loss)
    z.requires_grad_()
    expected = eager.calibration_term(x, z, q, "rows", loss)
    expected.backward()
    assert relative(value, expected.detach()) <= 1e-12
    assert (gradient - z.grad).abs().max() <= 1e-12


def has_digits(features: Tensor, outputs: Tensor, quantiles: Tensor, loss: str) -> bool:
    """Whether 32 bits can keep six digits of the gradient.

    Not where almost all rows are parallel: it is what a row's pull leaves across its own direction, there a small
    difference of large numbers. Nor where a similarity is at its target up to rounding, on either side of it.
    """
    exact = [each.double() for each in (features, outputs, quantiles)]
    size, lengths = len(outputs), exact[1].norm(dim=1, keepdim=True)
    others = ~torch.eye(size, dtype=torch.bool)
    targets = exact[2][cpu.ranks(features).clamp(0, size - 2).long()]
    similarities = (exact[1] / lengths) @ (exact[1] / lengths).T
    if float((similarities - targets)[others].abs().min()) < 1e-6:
        return False
    return outputs.shape[1] == 1 or float(run(*exact, loss)[1].norm()) > 0.15 * 2 / size * float((1 / lengths).norm())


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 24), st.integers(1, 33), st.sampled_from(LOSSES), st.integers(0, 99))
def test_any_shape_matches_the_reference_in_float32(size: int, bits: int, loss: str, seed: int) -> None:
    x, z, q = batch(size, 10, bits, seed=seed)
    assume(has_digits(x, z, q, loss))
    check_against_reference(x, z, q, loss)


@pytest.mark.parametrize("size", [2, 16, 33, 64, 100, 130, 200, 300])
def test_ranks_are_those_of_float64_in_all_but_a_thousandth(size: int) -> None:
    x, _, _ = batch(size, 256, 1)
    found, expected = cpu.ranks(x), exact_ranks(x)
    assert (found != expected).double().mean() <= 1e-3
    assert (found - expected).abs().max() <= 1
    assert torch.equal(cpu.ranks(x.double()), expected)


@pytest.mark.parametrize("size", [600, 1500])
def test_long_rows_are_ranked_by_shorter_keys(size: int) -> None:
    x, _, _ = batch(size, 64, 1)
    found, expected = cpu.ranks(x), exact_ranks(x)
    assert (found != expected).double().mean() <= 5e-3
    off = ~torch.eye(size, dtype=torch.bool)
    assert torch.equal(found[off].view(size, -1).sort()[0], torch.arange(size - 1).expand(size, -1))


@pytest.mark.parametrize("size", [5, 40, 150, 300, 700])
def test_ties_rank_by_column(size: int) -> None:
    x = representable(size)
    x[1] = x[0]  # a duplicate of a row, at cosine 1
    assert torch.equal(cpu.ranks(x), exact_ranks(x))


@pytest.mark.parametrize("size", [2, 60, 300])
def test_one_row_repeated_ranks_by_column(size: int) -> None:
    x = representable(1).expand(size, -1)
    assert torch.equal(cpu.ranks(x), exact_ranks(x))


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_of_zeros_give_what_eager_gives(loss: str) -> None:
    x, z, q = representable(20), batch(20, 4, 9)[1], torch.linspace(-0.9, 0.8, 19)
    z[3], z[7] = 0, 0
    value, gradient = run(x, z, q, loss)
    z.requires_grad_()
    expected = eager.calibration_term(x, z, q, "rows", loss)
    expected.backward()
    assert z.grad is not None
    assert torch.isfinite(gradient).all()
    assert abs(value - expected) <= 1e-6
    for row in range(20):
        assert relative(gradient[row], z.grad[row]) <= 1e-5
    assert torch.isfinite(run(x, torch.zeros(20, 9), q, loss)[1]).all()


@pytest.mark.parametrize("size", [40, 300])
def test_strides_do_not_matter(size: int) -> None:
    x, z, q = batch(size, 20, 10)
    wide = torch.full((size, 40), float("nan"))
    wide[:, ::2] = x
    spread = torch.full((2 * (size - 1),), float("nan"))
    spread[::2] = q
    found = run(wide[:, ::2], z.T.contiguous().T, spread[::2])
    for a, b in zip(found, run(x, z, q), strict=True):
        assert relative(a, b) <= 1e-6


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [2, 9, cpu.PANEL + 5])
def test_gradcheck(size: int, loss: str) -> None:
    x, z, q = batch(size, 8, 3, EXACT, EXACT)
    assert torch.autograd.gradcheck(
        lambda z: cpu.calibration_rows(x, z, q, loss), z.requires_grad_(), fast_mode=size > 9, eps=1e-7, atol=1e-6
    )


def test_not_a_number_is_not_hidden() -> None:
    x, z, q = batch(300, 8, 4)
    z[5, 1] = float("nan")
    for loss in LOSSES:
        assert run(x, z, q, loss)[0].isnan()
    x[7] = float("nan")
    off = ~torch.eye(300, dtype=torch.bool)
    assert torch.equal(cpu.ranks(x)[off].view(300, -1).sort()[0], torch.arange(299).expand(300, -1))


def test_without_gradient_the_value_is_the_same() -> None:
    x, z, q = batch(80, 8, 4)
    assert cpu.calibration_rows(x, z, q).requires_grad is False
    assert cpu.calibration_rows(x, z, q) == run(x, z, q)[0]


def test_second_derivatives_are_refused() -> None:
    x, z, q = batch(10, 8, 4)
    z.requires_grad_()
    (first,) = torch.autograd.grad(cpu.calibration_rows(x, z, q), z, create_graph=True)
    with pytest.raises(NotImplementedError, match="once only"):
        first.sum().backward()


def test_torch_compile_takes_it_whole() -> None:
    x, z, q = batch(50, 8, 4)
    torch.library.opcheck(
        torch.ops.sdc.calibration_rows_cpu.default, (x, z.requires_grad_(), q, 1, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip
    compiled = torch.compile(lambda z: 2 * cpu.calibration_rows(x, z, q), backend="aot_eager", fullgraph=True)
    compiled(z).backward()
    assert relative(z.grad, run(x, z, q, upstream=2.0)[1]) <= 1e-7


def test_runs_agree_bit_for_bit_and_thread_counts_nearly() -> None:
    x, (_, z, q) = representable(700), batch(700, 4, 16)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run(x, z, q))
            again = run(x, z, q)
            assert torch.equal(found[-1][0], again[0])
            assert torch.equal(found[-1][1], again[1])
    finally:
        torch.set_num_threads(before)
    for value, gradient in found[1:]:
        assert abs(value - found[0][0]) <= 1e-6
        assert relative(gradient, found[0][1]) <= 1e-6


@pytest.mark.parametrize(
    ("size", "expected"), [(2, False), (16, False), (32, False), (48, True), (64, True), (256, True), (8192, True)]
)
def test_the_rule(size: int, expected: bool) -> None:
    assert cpu.wins(size) is expected


def child(code: str, cold: bool = False, **environment: str) -> warm.Started:
    """A process that prints one JSON value; a cold one has imported nothing yet."""
    code = "import json, logging; logging.basicConfig(); from sdc.kernels import cpu\n" + code
    streams = {"env": {**os.environ, **environment}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if cold:
        return subprocess.Popen([sys.executable, "-c", code], text=True, **streams)
    return warm.popen(["-c", code], **streams)


def answer(process: warm.Started) -> tuple[Any, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out), err


def test_two_processes_build_at_once(tmp_path: Path) -> None:
    code = "import torch; print(json.dumps([cpu.available(), cpu.ranks(torch.eye(3)).tolist()]))"
    processes = [child(code, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    for process in processes:
        assert answer(process)[0] == [True, [[0, 0, 1], [0, 0, 1], [0, 1, 0]]]
    (built,) = (tmp_path / "sdc").iterdir()
    assert built.suffix == ".so"


REFUSAL = """
import torch
found = [cpu.available(), cpu.available()]
try:
    cpu.calibration_rows(torch.eye(2), torch.ones(2, 2), torch.zeros(1))
except RuntimeError as error:
    found.append(str(error))
print(json.dumps(found))
"""


@pytest.mark.parametrize("case", ["no compiler", "broken compiler", "broken cache"])
def test_without_a_build_it_says_so_once_and_steps_aside(tmp_path: Path, case: str) -> None:
    cache, path, said = tmp_path / "cache", tmp_path / "bin", "no g++"
    path.mkdir()
    if case == "broken compiler":
        (path / "g++").write_text("#!/bin/sh\necho cannot compile this >&2; exit 1\n")
        (path / "g++").chmod(0o755)
        said = "g++ failed: cannot compile this"
    elif case == "broken cache":
        cache.write_text("a file where the folder should be")
        (path / "g++").symlink_to("/bin/true")
        said = "cache"
    found, log = answer(child(REFUSAL, PATH=str(path), XDG_CACHE_HOME=str(cache)))
    assert found[:2] == [False, False]
    assert "not available" in found[2]
    assert log.count("WARNING:sdc") == 1
    assert said in log


def test_no_second_openmp_runtime_is_loaded(tmp_path: Path) -> None:
    code = """
import re, torch
def runtimes():
    names = {line.split()[-1] for line in open("/proc/self/maps")}
    return sorted(name for name in names if re.search(r"/lib(gomp|iomp|omp)[^/]*$", name))
before = runtimes()
cpu.ranks(torch.eye(300))
print(json.dumps([before, runtimes()]))
"""
    before, after = answer(child(code, cold=True))[0]
    assert len(before) == 1
    assert after == before


def test_extra_memory_is_a_tenth_of_eagers() -> None:
    code = """
import torch
from pathlib import Path
from sdc.kernels import eager
def peak():  # not ru_maxrss: a process inherits the mark of the one it was forked from
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
x = torch.nn.functional.normalize(torch.randn(4096, 1024))
half = x.half()
z, q = torch.randn(4096, 64, requires_grad=True), torch.linspace(-1, 1, 4095)
def ours(n):
    for features in (x, half):
        cpu.calibration_rows(features[:n], z[:n], q[:n - 1]).backward()
def plain(n):
    eager.calibration_term(x[:n], z[:n], q[:n - 1], "rows", "l1").backward()
ours(300), plain(300)
marks = [peak()]
ours(4096); marks.append(peak())
plain(4096); marks.append(peak())
print(json.dumps(marks))
"""
    start, ours, plain = answer(child(code, cold=True))[0]
    assert plain - start > 300  # MiB: else the comparison would mean nothing
    assert ours - start <= (plain - start) / 10


def test_a_nan_ranks_with_the_lowest_and_leaves_the_others_in_order() -> None:
    x = representable(300)
    x[7] = float("nan")
    others = torch.arange(300) != 7
    t = (x @ x.T).fill_diagonal_(float("inf"))[others]
    t[:, 7] = t[:, others].min(dim=1)[0]
    order = t.sort(dim=1, stable=True)[1]
    expected = torch.empty_like(order).scatter_(1, order, torch.arange(300).expand_as(order))
    expected[expected == 299] = 0  # the row itself
    assert torch.equal(cpu.ranks(x)[others], expected)


def test_too_little_memory_for_a_thread_is_told_to_the_caller() -> None:
    library = ctypes.CDLL(str(native.build(Path(cpu.__file__).with_name("cpu.cpp"))))
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    @ctypes.CFUNCTYPE(None, body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def parallel(work: Any, argument: int, threads: int, flags: int) -> None:
        work(argument)

    size, number = 1 << 45, ctypes.c_long
    for function in (library.sdc_panel_float, library.sdc_panel_double):
        nothing = None, None, number(0), number(128), number(size), number(128), None, None, None
        assert function(*nothing, 0, parallel, 1) == 1


def test_a_library_of_another_compiler_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = native.build(source)
    other = tmp_path / "bin" / "g++"
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\nexec {shutil.which("g++")} "$@"\n')
    other.chmod(0o755)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{other.parent}:{path}")
    second = native.build(source)
    assert first != second
    assert ctypes.CDLL(str(second)).one() == 1
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler: a library that another made will do
    assert native.build(source) in (first, second)
