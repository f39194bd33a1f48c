"""WikiText-103 in GPT-2's BPE: a GPT of GPT-2's size, 5.6 epochs. --noise_sigma=0.1 adds the noise.

A micro-step of 8,192 tokens, eight of them an iteration, is made for a card of 16 GB.
"""

dataset = "wikitext103_bpe"
batch_size = 8
block_size = 1024
gradient_accumulation_steps = 8

n_layer = 12
n_head = 12
n_embd = 768
dropout = 0.1

max_iters = 10_000
learning_rate = 6e-4
warmup_iters = 500
beta2 = 0.95

eval_interval = 500
