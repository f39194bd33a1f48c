"""The GPT against an independent float64 implementation, written here from the formulas."""

import math
from sys import modules
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model import GPT, GPTConfig, choose, dropout, has_instructions, product


def small(**changes):
    settings = {"vocab_size": 11, "block_size": 9, "n_layer": 2, "n_head": 3, "n_embd": 12}
    return GPTConfig(**{**settings, **changes})


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def reference(weights, config, idx, targets):
    """Logits and loss from formulas alone: matrix products, a loop over heads and over positions."""

    def bias(name):
        return weights.get(f"{name}.bias", 0.0)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + bias(name)

    def layer_norm(x, name):
        return norm(x, weights[f"{name}.weight"], bias(name))

    T = idx.shape[1]
    C, d = config.n_embd, config.n_embd // config.n_head
    x = weights["wte.weight"][idx] + weights["wpe.weight"][torch.arange(T)]
    for layer in range(config.n_layer):
        here = f"blocks.{layer}"
        qkv = linear(layer_norm(x, f"{here}.ln_1"), f"{here}.attn.qkv")
        heads = []
        for head in range(config.n_head):
            q, k, v = (qkv[..., part * C + head * d : part * C + (head + 1) * d] for part in range(3))
            rows = []
            for t in range(T):  # position t sees positions 0 to t
                scores = torch.einsum("bd,bsd->bs", q[:, t], k[:, : t + 1]) / math.sqrt(d)
                shares = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)
                rows.append(torch.einsum("bs,bsd->bd", shares, v[:, : t + 1]))
            heads.append(torch.stack(rows, 1))
        x = x + linear(torch.cat(heads, -1), f"{here}.attn.proj")
        u = linear(layer_norm(x, f"{here}.ln_2"), f"{here}.mlp.fc")
        gelu = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        x = x + linear(gelu, f"{here}.mlp.proj")
    logits = layer_norm(x, "ln_f") @ weights["wte.weight"].T
    picked = logits.gather(-1, targets[..., None])[..., 0]
    return logits, (torch.log(torch.exp(logits).sum(-1)) - picked).mean()


def model_and_batch(config, dtype):
    model = GPT.create(config, seed=3).to(dtype)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            # ten times the weights, so that a different GELU would show; biases and norms off their start
            parameter.mul_(10 if parameter.dim() > 1 else 1)
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(dtype))
    idx = torch.randint(config.vocab_size, (4, config.block_size), generator=generator)
    targets = torch.randint(config.vocab_size, (4, config.block_size), generator=generator)
    return model, idx, targets


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_logits_and_gradients_are_the_formulas(fused, bias, dtype, tolerance):
    config = small(bias=bias)
    model, idx, targets = model_and_batch(config, dtype)
    for block in model.blocks:
        block.attn.fused = fused
    logits, loss = model(idx, targets)
    loss.backward()
    weights = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    wanted_logits, wanted_loss = reference(weights, config, idx, targets)
    wanted_loss.backward()
    torch.testing.assert_close(logits.double(), wanted_logits, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(loss.double(), wanted_loss, rtol=tolerance, atol=tolerance)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(), weights[name].grad, rtol=tolerance, atol=tolerance, msg=name
        )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("windows", [1, 4, 16])  # few rows and many
def test_without_gradients_the_logits_are_the_formulas_too(bias, windows):
    model, idx, targets = model_and_batch(small(bias=bias), torch.float32)
    idx, targets = idx.repeat(4, 1)[:windows], targets.repeat(4, 1)[:windows]
    with torch.no_grad():
        logits, loss = model(idx, targets)
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    wanted_logits, wanted_loss = reference(weights, model.config, idx, targets)
    torch.testing.assert_close(logits.double(), wanted_logits, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(loss.double(), wanted_loss, rtol=2e-4, atol=2e-4)


def test_initial_weights_are_gpt2s_and_a_function_of_the_seed():
    config = GPTConfig(vocab_size=65, n_layer=4, n_embd=192, bias=True)
    model, again, other = (GPT.create(config, seed) for seed in (5, 5, 6))
    for (name, p), q, r in zip(model.named_parameters(), again.parameters(), other.parameters()):
        assert torch.equal(p, q)
        if p.dim() == 1:
            assert (p == (0.0 if name.endswith("bias") else 1.0)).all()
            continue
        assert not torch.equal(p, r)
        sd = 0.02 / math.sqrt(8) if name.endswith("proj.weight") else 0.02
        assert p.std().item() == pytest.approx(sd, rel=0.03)
        assert abs(p.mean().item()) < 4 * sd / math.sqrt(p.numel())


def test_creating_a_model_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    model = GPT.create(small(), seed=1)
    GPT.from_weights(model.weights())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_papers_size():
    model = GPT.create(GPTConfig(vocab_size=65), seed=0)
    count = 65 * 384 + 256 * 384 + 6 * (12 * 384 * 384 + 2 * 384) + 384
    assert model.parameter_count() == count == 10_745_088
    assert model.flops_per_token() == 6 * (count - 256 * 384) + 12 * 6 * 384 * 256


def test_matrices_decay_and_vectors_do_not():
    model = GPT.create(small(bias=True), seed=0)
    decayed, kept = model.parameter_groups(0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_weights_come_back_as_the_same_model(tmp_path):
    model, idx, _ = model_and_batch(small(bias=True), torch.float32)
    torch.save(model.weights(), tmp_path / "weights.pt")
    again = GPT.from_weights(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert again.config == model.config
    assert torch.equal(model(idx)[0], again(idx)[0])


def generators(count, first=0):
    return [torch.Generator().manual_seed(first + row) for row in range(count)]


def generate_without_cache(model, idx, length, own, temperature=1.0, top_k=None):
    """`GPT.generate`'s rule from the whole context anew for each token: (tokens, logits of each draw)."""
    size, seen = model.config.block_size, []
    context = idx[:, -size:]
    for _ in range(length):
        if context.shape[1] > size:
            context = context[:, -max(1, size // 2) :]
        seen.append(model(context)[0][:, -1].detach())
        token = choose(seen[-1], own, temperature, top_k)
        context, idx = torch.cat((context, token), 1), torch.cat((idx, token), 1)
    return idx, seen


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("size", [9, 8, 2, 1])
@pytest.mark.parametrize("prompt", [1, 5, 20])
def test_generation_with_the_cache_is_generation_without(monkeypatch, fused, dtype, tolerance, size, prompt):
    """Tokens, and the logits that they are drawn from: while the context grows, at and beyond block_size."""
    model, _, _ = model_and_batch(small(block_size=size, bias=True), dtype)
    for block in model.blocks:
        block.attn.fused = fused
    idx = torch.randint(11, (3, prompt), generator=torch.Generator().manual_seed(7))
    wanted, logits = generate_without_cache(model, idx, 40, generators(3))
    seen = []

    def watched(logits, *rest):
        seen.append(logits)
        return choose(logits, *rest)

    monkeypatch.setattr(modules["model"], "choose", watched)
    assert torch.equal(model.generate(idx, 40, generators(3)), wanted)
    torch.testing.assert_close(torch.stack(seen), torch.stack(logits), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("parts", [(9,), (1,) * 9, (4, 5), (3, 1, 2, 3)], ids=str)
def test_logits_in_parts_are_the_logits_of_the_whole(fused, parts):
    """Of the last position of each part, of which alone they are."""
    model, idx, _ = model_and_batch(small(), torch.float64)
    for block in model.blocks:
        block.attn.fused = fused
    caches = model.empty_caches(4)
    logits = torch.cat([model(part, caches=caches)[0] for part in idx.split(parts, dim=1)], dim=1)
    last = torch.tensor(parts).cumsum(0) - 1
    torch.testing.assert_close(logits, model(idx)[0][:, last])


def test_each_token_goes_through_the_model_once_until_the_context_is_full(monkeypatch):
    model, _, _ = model_and_batch(small(), torch.float32)
    lengths, forward = [], model.blocks[0].forward
    monkeypatch.setattr(model.blocks[0], "forward", lambda x, *c: lengths.append(x.shape[1]) or forward(x, *c))
    model.generate(torch.zeros(1, 3, dtype=torch.int64), 20, generators(1))
    # a context of 9: 3 and 6 more fill it, then its last 4 are done anew, and 5 more fill it again
    assert lengths == [3, *[1] * 6, 4, *[1] * 5, 4, *[1] * 5, 4]


def test_generation_is_a_function_of_its_generators_and_follows_the_model():
    model, _, _ = model_and_batch(small(), torch.float32)
    start = torch.tensor([[1, 2], [3, 4]])

    def text(seed, **options):
        return model.generate(start, 30, generators(2, seed), **options)

    assert torch.equal(text(1), text(1))
    assert not torch.equal(text(1), text(5))
    assert torch.equal(text(1)[:, :2], start)
    greedy = text(1, temperature=0)
    for t in range(2, 10):
        logits, _ = model(greedy[:, :t])
        assert torch.equal(logits[:, -1].argmax(-1), greedy[:, t])
    for options in ({"temperature": 1e-4}, {"temperature": 5e-324}, {"top_k": 1}):
        assert torch.equal(text(3, **options), greedy)


def test_a_row_has_its_own_generator():
    model, _, _ = model_and_batch(small(), torch.float64)
    start = torch.tensor([[1, 2]])
    rows = model.generate(start.expand(3, 2), 30, generators(3))
    for row in range(3):
        assert torch.equal(model.generate(start, 30, generators(1, row))[0], rows[row])
    assert not torch.equal(rows[0], rows[1])


def test_generation_draws_from_the_softmax():
    model, _, _ = model_and_batch(small(), torch.float32)
    start = torch.tensor([[1, 2, 3]]).expand(20_000, 3)
    own = [torch.Generator().manual_seed(0)] * 20_000
    tokens = model.generate(start, 1, own, temperature=2.0, top_k=4)[:, -1]
    logits = model(start[:1])[0][0, -1].detach().double() / 2.0
    likeliest = logits.topk(4).indices
    wanted = logits[likeliest].softmax(0)
    counts = np.array([(tokens == token).sum() for token in likeliest])
    assert counts.sum() == 20_000
    wanted = wanted.numpy()
    sd = np.sqrt(20_000 * wanted * (1 - wanted))
    assert (np.abs(counts - 20_000 * wanted) < 4.5 * sd + 1).all()


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_is_where_gpt2_has_it(monkeypatch, fused):
    """On embeddings, attention weights and both residual branches in training; nowhere in evaluation."""
    model, idx, _ = model_and_batch(small(dropout=0.5), torch.float32)
    for block in model.blocks:
        block.attn.fused = fused
    seen = []

    def watched(x, p):
        seen.append((tuple(x.shape), p))
        return dropout(x, p)

    monkeypatch.setattr(modules["model"], "dropout", watched)
    model(idx)
    stream, attention = (4, 9, 12), (4 * 3, 9, 9)
    assert seen == [(shape, 0.5) for shape in (stream, *(attention, stream, stream) * 2)]
    seen.clear()
    logits = model.eval()(idx)[0]
    assert {p for _, p in seen} == {0.0}
    plain, _, _ = model_and_batch(small(), torch.float32)
    torch.testing.assert_close(logits, plain(idx)[0])


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
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
        product = ((kept[lag:] - (1 - p)) * (kept[:-lag] - (1 - p))).mean()
        assert abs(product) < 4.5 * p * (1 - p) / math.sqrt(n)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, p), y)
    assert not torch.equal(dropout(x, p), y)


OPERATIONS = {  # product's arguments, of an x (120, 40), w (100, 40) and b (100,)
    "linear": lambda x, w, b: (F.linear, x, w, b),
    "linear without a bias": lambda x, w, b: (F.linear, x, w, None),
    "scores": lambda x, w, b: (torch.baddbmm, b.detach()[:50], *halves(x, w)),
    "values": lambda x, w, b: (torch.bmm, *halves(x, w)),
}


def halves(x, w):
    return x.view(2, 60, 40), w.view(2, 50, 40).transpose(1, 2)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_without_instructions_round_where_instructions_do(operation, dtype, monkeypatch):
    """Against float64: operands rounded to 16 bits, exact sums rounded once, forward and backward."""
    monkeypatch.setattr("model.has_instructions", lambda dtype: False)
    generator = torch.Generator().manual_seed(6)
    parts = [torch.randn(shape, generator=generator) for shape in ((120, 40), (100, 40), (100,))]
    alpha = {"alpha": 0.25} if operation == "scores" else {}

    def computed(rounded, product):
        leaves = [rounded(part).requires_grad_() for part in parts]
        y = product(*OPERATIONS[operation](*leaves), **alpha)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype).to(y.dtype))
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    with torch.autocast("cpu", dtype=dtype):
        found = computed(torch.clone, product)
    exact = computed(lambda part: part.to(dtype).double(), lambda op, *operands, **o: op(*operands, **o))
    assert (found[0].dtype, len(found)) == (dtype, len(exact))
    for mine, exactly in zip(found, exact):
        differ = mine.to(dtype) != exactly.to(dtype)
        assert differ.float().mean() < 0.01, "a sum in another order is rounded the other way now and then"
        torch.testing.assert_close(mine.double(), exactly, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize(("instructions", "autocast"), [(True, True), (False, False)])
def test_products_are_left_alone_with_instructions_and_outside_of_autocast(instructions, autocast, monkeypatch):
    monkeypatch.setattr("model.has_instructions", lambda dtype: instructions)
    operands = torch.ones(2, 3), torch.ones(4, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        seen = product(lambda *operands: operands, *operands)
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
