"""The training loop as it is usually written, against which ours is measured: nanoGPT's recipe.

It trains the same model from the same initial weights, with PyTorch's own operators (attention in its fused
call, dropout from the global generator), AdamW that is not fused, and the usual precision: float32 on a CPU,
autocast on CUDA, to bfloat16 (float16 with a scaler on a card without bfloat16). It builds each batch row by
row from the memory map, while the device computes the step before; it evaluates on random batches, and samples
with the whole context computed anew for each token. It has no noise. On CUDA nanoGPT compiles its model and
fuses AdamW; this loop does neither.
"""

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from model import GELU, GPT, choose
from noise import stream_seed
from train import learning_rate
from training.machine import best_dtype
from training.run import new_model, parameter_groups


class PlainGPT(GPT):
    """The same model by PyTorch's own operators."""

    def forward(self, idx, targets=None):
        p = self.config.dropout if self.training else 0.0
        positions = torch.arange(idx.shape[1], device=idx.device)
        x = F.dropout(self.wte(idx) + self.wpe(positions), p)  # (B, T, C)
        for block in self.blocks:
            x = x + F.dropout(self.attention(block.attn, block.ln_1(x), p), p)
            hidden = F.gelu(block.mlp.fc(block.ln_2(x)), approximate=GELU[self.config.activation])
            x = x + F.dropout(block.mlp.proj(hidden), p)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def attention(self, layer, x, p):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, layer.n_head, -1).transpose(1, 2) for part in layer.qkv(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)  # (B, H, T, C/H)
        return layer.proj(y.transpose(1, 2).contiguous().view(B, T, C))


class PlainLoop:
    def __init__(self, config, corpus, machine):
        self.config, self.folder = config, corpus.folder
        dtype = best_dtype(machine.device) if machine.kind == "cuda" else "float32"
        self.machine = replace(machine, dtype=dtype, compile=False)
        self.machine.apply()
        self.model = PlainGPT.from_weights(new_model(config, corpus, machine.device).weights(), machine.device)
        groups, betas = parameter_groups(self.model, config.weight_decay), (config.beta1, config.beta2)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas)
        self.scaler = self.machine.scaler()
        self.generator = torch.Generator().manual_seed(stream_seed(config.seed, "plain loop"))
        self.step = 0
        self.next = None  # batch

    def train_step(self):
        """One iteration; returns its mean loss, which is fetched every log_interval iterations."""
        config, parts, loss = self.config, self.config.gradient_accumulation_steps, 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        if config.dropout:
            torch.manual_seed(stream_seed(config.seed, "plain dropout", self.step))
        for _ in range(parts):
            x, y = self.next or self.batch("train")
            with self.machine.autocast():
                part = self.model(x, y)[1] / parts
            self.next = self.batch("train")
            self.scaler.scale(part).backward()
            loss += part.detach()
        if config.grad_clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.step % config.log_interval == 0:
            loss.item()
        self.step += 1
        return loss

    @torch.no_grad()
    def evaluate(self, split, batches):
        """The mean loss of so many random batches."""
        self.model.eval()
        losses = torch.zeros(batches)
        for number in range(batches):
            with self.machine.autocast():
                losses[number] = self.model(*self.batch(split))[1].item()
        self.model.train()
        return losses.mean().item()

    def batch(self, split):
        """Inputs and targets of random windows, each (batch_size, block_size), one by one from the map."""
        B, T = self.config.batch_size, self.config.block_size
        data = np.memmap(self.folder / f"{split}.bin", dtype=np.uint16, mode="r")
        if split == "train":
            data = data[: self.config.train_tokens]
        starts = torch.randint(len(data) - T, (B,), generator=self.generator)
        x = torch.stack([torch.from_numpy(data[i : i + T].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + T].astype(np.int64)) for i in starts])
        if self.machine.kind == "cuda":
            x, y = x.pin_memory(), y.pin_memory()
        return [part.to(self.machine.device, non_blocking=True) for part in (x, y)]


@torch.no_grad()
def sample_plainly(model, idx, length, generators):
    """The texts of `GPT.generate` without a cache: everything before is computed anew for each token."""
    size = model.config.block_size
    first = max(0, idx.shape[1] - size)
    for _ in range(length):
        if idx.shape[1] - first > size:
            first = idx.shape[1] - max(1, size // 2)
        logits, _ = model(idx[:, first:])
        token = choose(logits[:, -1], generators, 1.0, None)
        idx = torch.cat((idx, token.to(idx.device)), dim=1)
    return idx
