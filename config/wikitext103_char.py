"""WikiText-103 by characters: text8's model and iterations, 1.5 epochs. --noise_sigma=0.1 adds the noise."""

dataset = "wikitext103_char"
batch_size = 32
block_size = 256

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.0

max_iters = 100_000
learning_rate = 5e-4
warmup_iters = 200

eval_interval = 1000
log_interval = 50
checkpoint_interval = 1000
