"""The paper's method on shakespeare_char: the baseline's options, and noise of sd 0.1 * 0.99^t on gradients.

The paper's grid is noise_sigma in {0.1, 0.05, 0.01} by noise_gamma in {0.99, 0.95}; it does not say
which cell its table shows.
"""

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

noise_schedule = "exponential"
noise_sigma = 0.1
noise_gamma = 0.99

eval_interval = 250
