"""The paper's baseline on text8: a 10.7 M-parameter GPT, 100,000 iterations of AdamW."""

dataset = "text8"
batch_size = 32
block_size = 256

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
bias = False

max_iters = 100_000
learning_rate = 5e-4
warmup_iters = 200
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.99
grad_clip = 1.0

eval_interval = 1000
log_interval = 50
checkpoint_interval = 1000
