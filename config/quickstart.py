"""A first run: three to seven minutes on two CPU cores, on a corpus that comes with Python."""

dataset = "pydoc_char"
batch_size = 16
block_size = 128

n_layer = 4
n_head = 4
n_embd = 128
dropout = 0.0

max_iters = 1500
learning_rate = 2e-3
warmup_iters = 100

noise_schedule = "exponential"
noise_sigma = 0.01
noise_gamma = 0.99

eval_interval = 150
eval_train_tokens = 32_768
sample_tokens = 400
plot = True
