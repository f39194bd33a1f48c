"""The operators of the CPU: dropout by its distribution, 16-bit products against float64, what a CPU can do."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.operators import (
    QUERIES,
    attention,
    dropout,
    has_instructions,
    linear,
    linear_gelu,
    matmul,
    plain_attention,
)


@pytest.mark.parametrize("T", [7, QUERIES + 3, 2 * QUERIES])
def test_attention_is_pytorchs_with_and_without_the_fused_kernel(T):
    q, k, v = torch.randn(3, 2, 4, T, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    for function in (attention, plain_attention):
        torch.testing.assert_close(function(q, k, v, 0.0), wanted)
        newest = function(q[:, :, -2:], k, v, 0.0)  # two queries and more keys
        torch.testing.assert_close(newest, wanted[:, :, -2:])


@pytest.mark.parametrize("rows", [1, 200])
def test_linear_is_pytorchs_with_and_without_gradients(rows):
    layer, x = nn.Linear(8, 12), torch.randn(rows, 8, generator=torch.Generator().manual_seed(1))
    wanted = layer(x)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(linear(x, layer), wanted)
            for form in ("none", "tanh"):
                found = linear_gelu(x, layer, form)
                torch.testing.assert_close(found, F.gelu(wanted, approximate=form), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [0.2, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_p_and_keeps_the_mean(p, dtype):
    n = 999_999  # not a multiple of the four elements that share a draw
    x = torch.ones(n, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    y = dropout(x, p)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad, y.detach()), "the gradient has the same mask"
    kept = (y != 0).double()
    assert abs(kept.mean() - (1 - p)) < 4.5 * math.sqrt(p * (1 - p) / n)
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-3 if dtype == torch.float32 else 1e-2)
    for lag in (1, 2, 3, 4):  # within a shared draw and across draws
        covariance = ((kept[lag:] - (1 - p)) * (kept[:-lag] - (1 - p))).mean()
        assert abs(covariance) < 4.5 * p * (1 - p) / math.sqrt(n)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, p), y)
    assert not torch.equal(dropout(x, p), y)


OPERATIONS = {  # matmul's arguments, of an x (120, 40), w (100, 40) and b (100,)
    "linear": lambda x, w, b: (F.linear, x, w, b),
    "linear without a bias": lambda x, w, b: (F.linear, x, w, None),
    "scores": lambda x, w, b: (torch.baddbmm, b.detach()[:50], *halves(x, w)),
    "values": lambda x, w, b: (torch.bmm, *halves(x, w)),
}


def halves(x, w):
    return x.view(2, 60, 40), w.view(2, 50, 40).transpose(1, 2)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_matmul_without_instructions_round_where_instructions_do(operation, dtype, monkeypatch):
    """Against float64: operands rounded to 16 bits, exact sums rounded once, forward and backward."""
    monkeypatch.setattr("training.operators.has_instructions", lambda dtype: False)
    generator = torch.Generator().manual_seed(6)
    parts = [torch.randn(shape, generator=generator) for shape in ((120, 40), (100, 40), (100,))]
    alpha = {"alpha": 0.25} if operation == "scores" else {}

    def computed(rounded, multiply):
        leaves = [rounded(part).requires_grad_() for part in parts]
        y = multiply(*OPERATIONS[operation](*leaves), **alpha)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype).to(y.dtype))
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    with torch.autocast("cpu", dtype=dtype):
        found = computed(torch.clone, matmul)
    exact = computed(lambda part: part.to(dtype).double(), lambda op, *operands, **o: op(*operands, **o))
    assert (found[0].dtype, len(found)) == (dtype, len(exact))
    for mine, exactly in zip(found, exact):
        differ = mine.to(dtype) != exactly.to(dtype)
        assert differ.float().mean() < 0.01, "a sum in another order is rounded the other way now and then"
        torch.testing.assert_close(mine.double(), exactly, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize(("instructions", "autocast"), [(True, True), (False, False)])
def test_matmul_is_left_alone_with_instructions_and_outside_of_autocast(instructions, autocast, monkeypatch):
    monkeypatch.setattr("training.operators.has_instructions", lambda dtype: instructions)
    operands = torch.ones(2, 3), torch.ones(4, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        seen = matmul(lambda *operands: operands, *operands)
    assert all(one is other for one, other in zip(seen, operands, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_types_have_instructions_everywhere(dtype):
    assert has_instructions(dtype)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False),  # emulated by oneDNN
        ({"architecture": "aarch64"}, True),  # by oneDNN's own word
    ],
)
def test_bfloat16_that_is_emulated_is_not_by_instructions(found, wanted, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    supported = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True, _is_mkldnn_fp16_supported=lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", supported)
    assert has_instructions(torch.bfloat16) is wanted
    assert not has_instructions(torch.float16)
    supported._is_mkldnn_bf16_supported = lambda: False
    assert not has_instructions(torch.bfloat16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    assert not has_instructions(torch.bfloat16), "of a PyTorch without oneDNN, as on a Mac"
