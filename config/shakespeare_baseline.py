"""The paper's baseline on shakespeare_char: a 10.7 M-parameter GPT, 5,000 iterations of AdamW."""

dataset = "shakespeare_char"
batch_size = 64
block_size = 256

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
bias = False

max_iters = 5000
learning_rate = 1e-3
warmup_iters = 100
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.99
grad_clip = 1.0

eval_interval = 250
