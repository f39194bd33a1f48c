"""The operators of model.py, made fast on a CPU. On any other device each is PyTorch's own.

The figures say how many times as fast a training step, an evaluation or a sample is with the choice as without
it; docs/speed.md has them all.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

QUERIES = 128  # of a block of plain attention: fewer cost more calls than they save


def linear(x, layer):
    """layer(x) for an nn.Linear.

    Without gradients, on a CPU in float32, oneDNN computes it: PyTorch prefers MKL, which leaves AVX-512 unused
    on AMD's processors (an evaluation: 1.1 times as fast). For a few rows its calls cost more than they save.
    """
    if onednn_is_faster(x):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")
    return matmul(F.linear, x, layer.weight, layer.bias)


def linear_gelu(x, layer, approximate):
    """GELU(layer(x)); where `linear` uses oneDNN, both in one pass. approximate: as in F.gelu.

    In 16 bits the exact form, "none", takes 0.37 times as long as "tanh", forward and backward.
    """
    if onednn_is_faster(x):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], approximate)
    return F.gelu(matmul(F.linear, x, layer.weight, layer.bias), approximate=approximate)


def onednn_is_faster(x):
    many = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= 64 * x.shape[-1]
    return many and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available()


def attention(q, k, v, p):
    """softmax(q k^T / sqrt d, causal) v, with dropout p on the weights.

    q: (B, H, T, d), the last T of S tokens. k, v: (B, H, S, d). Returns (B, H, T, d).

    On a CPU the fused kernel has no dropout; in 16 bits a step is 1.3 to 1.4 times as fast without it.
    """
    T, S = q.shape[2], k.shape[2]
    fused = q.device.type != "cpu" or (q.dtype.itemsize > 2 and not p)
    # Its causal mask needs as many queries as keys; a single query, the newest, sees every key.
    if fused and T in (1, S):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=T == S)
    return plain_attention(q, k, v, p)


def plain_attention(q, k, v, p):
    """`attention` in matrix products, scale and mask within the first (a step: 1.06 times as fast).

    QUERIES at a time meet the keys up to their last one: what lies further in the future is not computed.
    """
    (B, H, T, d), S = q.shape, k.shape[2]
    q, k, v = (part.reshape(B * H, -1, d) for part in (q, k, v))
    future, values = torch.full((T, S), -math.inf, dtype=q.dtype, device=q.device).triu(1 + S - T), []
    for begin in range(0, T, QUERIES):
        rows, seen = slice(begin, begin + QUERIES), S - T + min(begin + QUERIES, T)
        operands = future[rows, :seen], q[:, rows], k[:, :seen].transpose(1, 2)
        scores = matmul(torch.baddbmm, *operands, alpha=1 / math.sqrt(d))  # (B H, QUERIES, seen)
        values.append(matmul(torch.bmm, dropout(scores.softmax(-1), p), v[:, :seen]))
    return torch.cat(values, dim=1).view(B, H, T, d)


def dropout(x, p):
    """Each element 0 with probability p, else x / (1 - p); a function of the global generator's state.

    PyTorch draws a mask on the CPU one element after the other. Here four elements share a 64-bit draw of
    numpy's SFC64, which is twice as fast as PyTorch's generator, and p is rounded to a multiple of 2^-16.
    """
    if not p or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    threshold = min(round(p * 65536), 65535)
    seed = np.empty(1, dtype=np.int64)
    torch.from_numpy(seed).random_()
    words = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-x.numel() // 4)))
    uniform = words.view(torch.int16)[: x.numel()].view(x.shape)  # from -32768 to 32767
    keep = torch.ge(uniform, threshold - 32768, out=torch.empty_like(x, requires_grad=False))
    return x * keep.mul_(65536 / (65536 - threshold))


def matmul(operation, *operands, **options):
    """operation(*operands), a matrix product such as F.linear or torch.bmm, in the precision of autocast.

    A CPU without 16-bit instructions multiplies 16 bits by a loop over elements. There the operands are rounded
    to 16 bits, multiplied and summed in float32, and the sum is rounded. This gives what 16-bit instructions
    give, up to the order of summation, in the backward pass too (a step: 14.6 times as fast).
    """
    dtype = torch.get_autocast_dtype("cpu")
    if operands[0].device.type != "cpu" or not torch.is_autocast_enabled("cpu") or has_instructions(dtype):
        return operation(*operands, **options)
    with torch.autocast("cpu", enabled=False):
        operands = [operand if operand is None else operand.to(dtype).float() for operand in operands]
        return operation(*operands, **options).to(dtype)


def has_instructions(dtype):
    """Whether this CPU has instructions for products of this dtype, through oneDNN.

    PyTorch claims bfloat16 wherever there is AVX-512, but without instructions for it oneDNN emulates them.
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


def transpose_for_sampling(layers):
    """On a CPU, store the matrices of more outputs than inputs column by column, in place: a single row goes
    through them faster so (209 tokens a second against 169 at the paper's size)."""
    for weight in (layer.weight for layer in layers):
        if weight.device.type == "cpu" and weight.shape[0] > weight.shape[1]:
            weight.data = weight.data.t().contiguous().t()
