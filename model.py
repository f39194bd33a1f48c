"""The GPT: pre-norm transformer blocks, learned positions, tied embedding and head (as nanoGPT's)."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model; saved with its weights, so that it can be built again from them."""

    vocab_size: int
    block_size: int = 256
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    dropout: float = 0.0
    bias: bool = False
    activation: str = "gelu_tanh"  # GPT-2's; the one there is, recorded because nanoGPT's is the exact GELU


class LayerNorm(nn.Module):
    """Layer normalization with an optional bias, eps 1e-5."""

    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-5)


class KeyValueCache:
    """What one attention layer keeps of the tokens it has seen: their keys and values, block_size at most."""

    def __init__(self, config, batch_size, like):
        """Room of the device and type of the tensor `like`; nothing seen yet."""
        shape = (batch_size, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.length = 0

    def extend(self, k, v):
        """Take in the keys and values of further tokens, (B, H, T, d); returns all so far, (B, H, S, d)."""
        seen, self.length = self.length, self.length + k.shape[2]
        self.keys[:, :, seen : self.length], self.values[:, :, seen : self.length] = k, v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.fused = True  # False: always the plain path, which has second derivatives

    def forward(self, x, cache=None):
        B, T, C = x.shape
        qkv = linear(x, self.qkv).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, C/H)
        if cache is not None:
            k, v = cache.extend(k, v)  # each (B, H, S, C/H)
        S = k.shape[2]
        p = self.dropout if self.training else 0.0
        # On the CPU the fused kernel has no dropout and takes twice the plain path's time in 16 bits.
        # Its causal mask is for as many queries as keys; a single query, the newest, sees all of them.
        fused = self.fused and (x.device.type != "cpu" or (q.dtype.itemsize > 2 and not p))
        if fused and T in (1, S):
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=T == S)
        else:
            y = plain_attention(q, k, v, p)
        y = y.transpose(1, 2).reshape(B, T, C)
        return dropout(linear(y, self.proj), p)


def plain_attention(q, k, v, p):
    """softmax(q k^T / sqrt d, causal) v, with dropout p on the weights.

    q: (B, H, T, d), the last T of S tokens. k, v: (B, H, S, d).
    """
    (B, H, T, d), S = q.shape, k.shape[2]
    q, k, v = (part.reshape(B * H, -1, d) for part in (q, k, v))
    future = torch.full((T, S), -math.inf, dtype=q.dtype, device=q.device).triu(1 + S - T)
    scores = product(torch.baddbmm, future, q, k.transpose(1, 2), alpha=1 / math.sqrt(d))  # (B H, T, S)
    return product(torch.bmm, dropout(scores.softmax(-1), p), v).view(B, H, T, d)


def product(operation, *operands, **options):
    """operation(*operands), a matrix product, in the precision of autocast.

    A CPU without instructions for 16 bits takes much longer for them than for float32. There the operands are
    rounded to 16 bits, multiplied and summed in float32, and the sum is rounded: what the instructions do, but
    for the order of summation. So also backward.
    """
    dtype = torch.get_autocast_dtype("cpu")
    if operands[0].device.type != "cpu" or not torch.is_autocast_enabled("cpu") or has_instructions(dtype):
        return operation(*operands, **options)
    with torch.autocast("cpu", enabled=False):
        operands = [operand if operand is None else operand.to(dtype).float() for operand in operands]
        return operation(*operands, **options).to(dtype)


def has_instructions(dtype):
    """Whether this CPU computes products of this dtype by instructions for it, through oneDNN.

    PyTorch says so of bfloat16 wherever there is AVX-512, but without its own instructions oneDNN emulates it.
    """
    if dtype.itemsize > 2:
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    found = getattr(torch.cpu, "get_capabilities", dict)()
    emulated = "avx512_bf16" in found and not (found["avx512_bf16"] or found["amx_bf16"])
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and not emulated


def dropout(x, p):
    """Each element 0 with probability p, else x / (1 - p); drawn from the global generator.

    PyTorch draws a mask on the CPU one element after the other, which can cost as much as the rest of the
    model. There, four elements share a 64-bit draw, and p is rounded to a multiple of 2^-16.
    """
    if not p or x.device.type != "cpu":
        return F.dropout(x, p)
    threshold = min(round(p * 65536), 65535)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    uniform = words.view(torch.int16)[: x.numel()].view(x.shape)  # from -32768 to 32767
    keep = (uniform >= threshold - 32768).to(x.dtype) * (65536 / (65536 - threshold))
    return x * keep


def linear(x, layer, gelu=False):
    """layer(x), and GELU of that where asked (tanh's approximation).

    Without gradients, on a CPU in float32, oneDNN computes both in one pass: PyTorch prefers MKL there, which
    leaves AVX-512 unused on AMD's processors. For a few rows its calls cost more than they save.
    """
    many = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= 64 * x.shape[-1]
    if many and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():
        what = ("gelu", [], "tanh") if gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, *what)
    x = product(F.linear, x, layer.weight, layer.bias)
    return F.gelu(x, approximate="tanh") if gelu else x


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        x = linear(linear(x, self.fc, gelu=True), self.proj)
        return dropout(x, self.dropout if self.training else 0.0)


def group_of(name):
    """The kind of a GPT's parameter, by its name: embeddings (the head is one), attention, mlp or norms."""
    parts = name.split(".")
    if parts[0] in ("wte", "wpe"):
        return "embeddings"
    return "attention" if "attn" in parts else "mlp" if "mlp" in parts else "norms"


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd, config.bias)
        self.mlp = MLP(config)

    def forward(self, x, cache=None):  # (B, T, C)
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Build with `GPT.create` or `GPT.from_weights`.

    The head shares the token embedding's matrix, which is one parameter: wte.weight.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, config.bias)
        self.compiled = False

    @classmethod
    def empty(cls, config):
        """A GPT on the CPU whose weights are whatever the memory held; no generator is touched."""
        with torch.device("meta"):
            model = cls(config)
        return model.to_empty(device="cpu")

    @classmethod
    def create(cls, config, seed, device="cpu"):
        """A GPT whose initial weights are a function of (config, seed), the same on every device."""
        model = cls.empty(config)
        model.initialize(torch.Generator().manual_seed(seed))
        return model.to(device)

    @torch.no_grad()
    def initialize(self, generator):
        """GPT-2's: N(0, 0.02^2), residual projections over sqrt(2 * n_layer), biases 0, norms 1."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            sd = 0.02 / math.sqrt(2 * self.config.n_layer) if name.endswith("proj.weight") else 0.02
            parameter.normal_(0.0, sd, generator=generator)

    def forward(self, idx, targets=None, caches=None):
        """idx, targets: (B, T) int64, T <= block_size. Returns logits (B, T, vocab_size) in the compute
        dtype, and the mean cross-entropy in nats (float32 or float64), or None without targets.

        caches: `empty_caches` or what a call before has left in them; idx continues what they have seen,
        block_size tokens at most with idx, and is taken in. With them the logits are of the last position
        alone, (B, 1, vocab_size).
        """
        T, seen = idx.shape[1], caches[0].length if caches else 0
        x = self.wte(idx) + self.wpe.weight[seen : seen + T]  # (B, T, C)
        x = dropout(x, self.config.dropout if self.training else 0.0)
        for layer, block in enumerate(self.blocks):
            x = block(x, caches[layer]) if caches else block(x)
        logits = product(F.linear, self.ln_f(x[:, -1:] if caches else x), self.wte.weight)
        if targets is None:
            return logits, None
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return logits, F.cross_entropy(wide.flatten(0, 1), targets.flatten())

    def compile_blocks(self, on=True):
        """Compile the block, once for all of them, at its next call; or, with on=False, no longer.

        In parts where dropout draws on a CPU, which the compiler leaves to eager code.
        """
        if on:  # or it would stop at each product to ask
            torch.compiler.assume_constant_result(has_instructions)
        for block in self.blocks:
            if on:
                block.compile()
            else:
                block._compiled_call_impl = None
        self.compiled = on

    def parameter_groups(self, weight_decay):
        """AdamW's groups: matrices and embeddings decay, norms and biases do not."""
        parameters = list(self.parameters())
        return [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]

    def parameter_count(self):
        """All parameters; the tied matrix once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self):
        """FLOPs of forward and backward a token: 6 N + 12 L C T (PaLM, arXiv:2204.02311, appendix B).

        N leaves out the position embedding, which is only added; attention is counted as if not causal.
        """
        c = self.config
        return 6 * (self.parameter_count() - self.wpe.weight.numel()) + 12 * c.n_layer * c.n_embd * c.block_size

    def empty_caches(self, batch_size):
        """A KeyValueCache a block."""
        return [KeyValueCache(self.config, batch_size, self.wte.weight) for _ in self.blocks]

    def for_sampling(self, device):
        """This model on a device, without dropout; on a CPU, matrices of more outputs than inputs are stored
        column by column, in which order a single row goes through them faster (bench.py measures it)."""
        self.to(device).eval()
        layers = [self.wte, *(layer for block in self.blocks for layer in (block.attn.qkv, block.mlp.fc))]
        for weight in (layer.weight for layer in layers):
            if weight.device.type == "cpu" and weight.shape[0] > weight.shape[1]:
                weight.data = weight.data.t().contiguous().t()
        return self

    @torch.no_grad()
    def generate(self, idx, length, generators, temperature=1.0, top_k=None):
        """Continue idx (B, T) by `length` tokens drawn from the model; returns (B, T + length).

        generators: one a row, on the CPU, the only sources of randomness. temperature: the logits'
        divisor; 0 takes the likeliest token. top_k: draw among the k likeliest only. The model's mode is
        the caller's.

        Keys and values are computed once a token. Positions are learned and absolute, so that a full
        context cannot slide: it is cut to its last half (block_size // 2 tokens, at least one), which is
        computed anew. A longer idx begins with its last block_size tokens.
        """
        size = self.config.block_size
        caches, new = self.empty_caches(len(idx)), idx[:, -size:]
        for _ in range(length):
            if caches[0].length + new.shape[1] > size:
                caches, new = self.empty_caches(len(idx)), idx[:, -max(1, size // 2) :]
            logits, _ = self(new, caches=caches)
            new = choose(logits[:, -1], generators, temperature, top_k).to(idx.device)
            idx = torch.cat((idx, new), dim=1)
        return idx

    def weights(self):
        """What a checkpoint holds of a model: its config and its state."""
        return {"config": asdict(self.config), "state": self.state_dict()}

    @classmethod
    def from_weights(cls, weights, device="cpu"):
        """The model that `weights()` described."""
        model = cls.empty(GPTConfig(**weights["config"]))
        model.load_state_dict(weights["state"])
        return model.to(device)


def choose(logits, generators, temperature, top_k):
    """The next token of each row of logits (B, vocab_size), as `GPT.generate` says: (B, 1) int64."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits.cpu().double()
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    logits = logits - logits.amax(-1, keepdim=True)  # so that no small temperature makes inf - inf
    shares = (logits / temperature).softmax(-1)
    tokens = [torch.multinomial(row, 1, generator=own) for row, own in zip(shares, generators)]
    return torch.stack(tokens)
