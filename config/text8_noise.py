"""The paper's method on text8: the baseline, and sd 0.1 * 0.99^t on every gradient element.

The paper's grid is noise_sigma in {0.1, 0.05, 0.01} by noise_gamma in {0.99, 0.95}; it does not say
which cell its table shows.
"""

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

noise_schedule = "exponential"
noise_sigma = 0.1
noise_gamma = 0.99

eval_interval = 1000
log_interval = 50
checkpoint_interval = 1000
