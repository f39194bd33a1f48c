"""TinyStories in GPT-2's BPE: 51 M parameters, 1.2 epochs. --noise_sigma=0.1 adds the noise.

A micro-step of 8,192 tokens, four of them an iteration, is made for a card of 16 GB.
"""

dataset = "tinystories_bpe"
batch_size = 16
block_size = 512
gradient_accumulation_steps = 4

n_layer = 8
n_head = 8
n_embd = 512
dropout = 0.0

max_iters = 20_000
learning_rate = 1e-3
warmup_iters = 500
beta2 = 0.95

eval_interval = 500
