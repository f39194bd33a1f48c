"""The same as finetune_shakespeare.py, with NoisyTune."""

init_from = "out/pretrain_text8_small/seed1"
noisytune_lambda = 0.15  # Wu et al. 2022, arXiv:2202.12024

dataset = "shakespeare_char"
batch_size = 32
block_size = 256

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
activation = "gelu_tanh"  # as the records of the NoisyTune studies

max_iters = 1000
learning_rate = 3e-4
warmup_iters = 50

eval_interval = 100
