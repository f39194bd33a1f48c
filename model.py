"""The GPT: pre-norm transformer blocks, learned positions, tied embedding and head, as in nanoGPT.

`ops` are PyTorch's own operators; on a CPU some are replaced by faster ones (training/operators.py).
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from training import operators as ops

GELU = {"gelu": "none", "gelu_tanh": "tanh"}  # an activation's name -> F.gelu's `approximate`


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model, saved with its weights."""

    vocab_size: int
    block_size: int = 256
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    dropout: float = 0.0
    bias: bool = False
    activation: str = "gelu"  # nanoGPT's; "gelu_tanh" is GPT-2's


class KeyValueCache:
    """The keys and values of the tokens that one attention layer has seen, block_size at most.

    like: a tensor of the device and dtype to be used.
    """

    def __init__(self, config, batch_size, like):
        shape = (batch_size, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.length = 0

    def extend(self, k, v):
        """Append keys and values, (B, H, T, d); returns all so far, (B, H, S, d)."""
        seen, self.length = self.length, self.length + k.shape[2]
        self.keys[:, :, seen : self.length], self.values[:, :, seen : self.length] = k, v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x, cache=None):
        B, T, C = x.shape
        qkv = ops.linear(x, self.qkv).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, C/H)
        if cache is not None:
            k, v = cache.extend(k, v)  # each (B, H, S, C/H)
        p = self.dropout if self.training else 0.0
        y = ops.attention(q, k, v, p)  # (B, H, T, C/H)
        y = y.transpose(1, 2).reshape(B, T, C)
        return ops.dropout(ops.linear(y, self.proj), p)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dropout, self.approximate = config.dropout, GELU[config.activation]
        self.fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        x = ops.linear(ops.linear_gelu(x, self.fc, self.approximate), self.proj)
        return ops.dropout(x, self.dropout if self.training else 0.0)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x, cache=None):  # (B, T, C)
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Build with `GPT.create` or `GPT.from_weights`. The head is the token embedding's matrix, wte.weight."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.compiled = False

    @classmethod
    def empty(cls, config):
        """A GPT on the CPU with uninitialized weights; no generator is touched."""
        with torch.device("meta"):
            model = cls(config)
        return model.to_empty(device="cpu")

    @classmethod
    @torch.no_grad()
    def create(cls, config, seed, device="cpu"):
        """A GPT with GPT-2's initial weights, a function of (config, seed), the same on every device:
        N(0, 0.02^2), residual projections over sqrt(2 * n_layer), biases 0, norms 1."""
        model, generator = cls.empty(config), torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            sd = 0.02 / math.sqrt(2 * config.n_layer) if name.endswith("proj.weight") else 0.02
            parameter.normal_(0.0, sd, generator=generator)
        return model.to(device)

    def forward(self, idx, targets=None, caches=None):
        """idx, targets: (B, T) int64, T <= block_size. Returns logits (B, T, vocab_size) in the compute
        dtype, and the mean cross-entropy in nats (float32 or float64), or None without targets.

        caches: those of `empty_caches`, which each call extends by idx, to block_size tokens at most. With them
        the logits are of the last position alone, (B, 1, vocab_size).
        """
        T, seen = idx.shape[1], caches[0].length if caches else 0
        x = self.wte(idx) + self.wpe.weight[seen : seen + T]  # (B, T, C)
        x = ops.dropout(x, self.config.dropout if self.training else 0.0)
        for layer, block in enumerate(self.blocks):
            x = block(x, caches[layer]) if caches else block(x)
        logits = ops.matmul(F.linear, self.ln_f(x[:, -1:] if caches else x), self.wte.weight)
        if targets is None:
            return logits, None
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return logits, F.cross_entropy(wide.flatten(0, 1), targets.flatten())

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
        """This model on a device, without dropout, and as fast as it can be for one row at a time."""
        self.to(device).eval()
        ops.transpose_for_sampling(
            [self.wte, *(layer for block in self.blocks for layer in (block.attn.qkv, block.mlp.fc))]
        )
        return self

    @torch.no_grad()
    def generate(self, idx, length, generators, temperature=1.0, top_k=None):
        """Continue idx (B, T) by `length` sampled tokens; returns (B, T + length).

        generators: one a row, on the CPU, the only source of randomness. temperature divides the logits; 0
        takes the likeliest token. top_k: sample among the k likeliest only. Call eval() first.

        Keys and values are cached. Positions are learned and absolute, so that a full context cannot slide: it
        is cut to its last half (block_size // 2 tokens, at least one), which is computed anew.
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
        """Its config and state, for a checkpoint."""
        return {"config": asdict(self.config), "state": self.state_dict()}

    @classmethod
    def from_weights(cls, weights, device="cpu"):
        """The model that `weights` came from."""
        model = cls.empty(GPTConfig(**weights["config"]))
        model.load_state_dict(weights["state"])
        return model.to(device)


def choose(logits, generators, temperature, top_k):
    """The next token of each row of logits (B, vocab_size), by the rules of `generate`: (B, 1) int64."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits.cpu().double()
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    logits = logits - logits.amax(-1, keepdim=True)  # or a small temperature gives inf - inf
    shares = (logits / temperature).softmax(-1)
    tokens = [torch.multinomial(row, 1, generator=own) for row, own in zip(shares, generators)]
    return torch.stack(tokens)
