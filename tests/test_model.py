"""The GPT against an independent float64 implementation, written here from the formulas."""

import math
from sys import modules

import numpy as np
import pytest
import torch

from model import GELU, GPT, GPTConfig, choose
from training import operators
from training.run import parameter_groups


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
        gelu = u * (1 + torch.erf(u / math.sqrt(2))) / 2
        if config.activation == "gelu_tanh":
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


@pytest.mark.parametrize("activation", GELU)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_logits_and_gradients_are_the_formulas(activation, bias, dtype, tolerance):
    config = small(bias=bias, activation=activation)
    model, idx, targets = model_and_batch(config, dtype)
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


@pytest.mark.parametrize("activation", GELU)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("windows", [1, 16])  # few rows and many
def test_without_gradients_the_logits_are_the_formulas_too(activation, bias, windows):
    model, idx, targets = model_and_batch(small(bias=bias, activation=activation), torch.float32)
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
    decayed, kept = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


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


@pytest.mark.parametrize(
    ("size", "prompt"),
    [(9, 1), (9, 20), (8, 5), (2, 5), (1, 1), (1, 20)],
)
def test_generation_with_the_cache_is_generation_without(monkeypatch, size, prompt):
    """Tokens, and the logits that they are drawn from: while the context grows, at and beyond block_size."""
    model, _, _ = model_and_batch(small(block_size=size, bias=True), torch.float64)
    idx = torch.randint(11, (3, prompt), generator=torch.Generator().manual_seed(7))
    wanted, logits = generate_without_cache(model, idx, 25, generators(3))
    seen = []

    def watched(logits, *rest):
        seen.append(logits)
        return choose(logits, *rest)

    monkeypatch.setattr(modules["model"], "choose", watched)
    assert torch.equal(model.generate(idx, 25, generators(3)), wanted)
    torch.testing.assert_close(torch.stack(seen), torch.stack(logits), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("parts", [(9,), (1,) * 9, (4, 5), (3, 1, 2, 3)], ids=str)
def test_logits_in_parts_are_the_logits_of_the_whole(parts):
    """Of the last position of each part, of which alone they are."""
    model, idx, _ = model_and_batch(small(), torch.float64)
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


def test_dropout_is_where_gpt2_has_it(monkeypatch):
    """On embeddings, attention weights and both residual branches in training; nowhere in evaluation."""
    model, idx, _ = model_and_batch(small(dropout=0.5), torch.float32)
    seen = []

    dropout = operators.dropout

    def watched(x, p):
        seen.append((tuple(x.shape), p))
        return dropout(x, p)

    monkeypatch.setattr(operators, "dropout", watched)
    model(idx)
    stream, attention = (4, 9, 12), (4 * 3, 9, 9)
    assert seen == [(shape, 0.5) for shape in (stream, *(attention, stream, stream) * 2)]
    seen.clear()
    logits = model.eval()(idx)[0]
    assert {p for _, p in seen} == {0.0}
    plain, _, _ = model_and_batch(small(), torch.float32)
    torch.testing.assert_close(logits, plain(idx)[0])
