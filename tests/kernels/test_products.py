"""Products by oneDNN: when they are taken, that they are exact to float32, and their gradients."""

import pytest
import torch
import torch.nn.functional as F

from sdc.kernels import linear, products
from sdc.kernels.products import onednn_wins, product


@pytest.fixture
def amd(monkeypatch):
    """A processor of AMD's."""
    monkeypatch.setattr(products, "vendor", lambda: "AuthenticAMD")


def matrices(rows, columns, depth, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows + columns + depth)
    return [torch.randn(n, depth, generator=generator).to(dtype) for n in (rows, columns)]


def test_small_or_half_precise_products_are_left_to_pytorch(amd):
    assert onednn_wins(*matrices(256, 256, 256))
    assert not onednn_wins(*matrices(256, 64, 64))
    assert not onednn_wins(*matrices(256, 256, 256, torch.float64))
    assert not onednn_wins(*matrices(256, 256, 256, torch.bfloat16))


def test_on_other_processors_pytorch_multiplies(monkeypatch):
    for name in ("GenuineIntel", ""):
        monkeypatch.setattr(products, "vendor", lambda name=name: name)
        assert not onednn_wins(*matrices(256, 256, 256))


def test_who_asks_pytorch_for_less_precision_gets_its_own(amd):
    switch, found = torch.backends.mkldnn.matmul, {}
    before = switch.fp32_precision
    try:
        for asked in ("bf16", "tf32", "ieee"):
            switch.fp32_precision = asked
            found[asked] = onednn_wins(*matrices(256, 256, 256))
    finally:
        switch.fp32_precision = before
    assert found == {"bf16": False, "tf32": False, "ieee": True}


@pytest.mark.parametrize("strided", [False, True])
def test_products_have_the_accuracy_of_float32(amd, strided):
    a, b = matrices(257, 300, 512)
    if strided:
        a, b = a[:, ::2].repeat(1, 1), b.T.contiguous().T[:, ::2]
    exact = a.double() @ b.double().T
    scale = a.double().norm(dim=1)[:, None] * b.double().norm(dim=1)
    assert onednn_wins(a, b)
    out = torch.empty(257, 400)[:, :300]
    for found in (product(a, b), product(a, b, out=out)):
        assert ((found.double() - exact).abs() / scale).max() < 1e-6
    assert found is out


@pytest.mark.parametrize("shape", [(256, 512), (8, 32, 512)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_a_linear_layer_and_its_gradients_are_pytorchs(amd, shape, biased):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, upstream = (
        torch.randn(*size, generator=generator) for size in (shape, (256, 512), (256,), (*shape[:-1], 256))
    )
    given = [x, weight, bias] if biased else [x, weight]
    results = []
    for function in (linear, F.linear):
        tensors = [tensor.clone().requires_grad_() for tensor in given]
        out = function(*tensors)
        (out * upstream).sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in tensors)])
    for name, found, expected in zip(("outputs", "d x", "d weight", "d bias"), *results, strict=False):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-4, msg=name)


def test_a_frozen_input_gets_no_gradient(amd):
    x, weight = matrices(256, 256, 512)
    linear(x, weight.requires_grad_()).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
