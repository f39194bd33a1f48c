"""Pretrain a GPT on text8, to be fine-tuned. In about ten minutes on a CPU:

python train.py config/pretrain_text8_small.py config/cpu.py --max_iters=10000

Its folder is the one that the fine-tuning configs start from, whatever its size.
"""

out_dir = "out/pretrain_text8_small/seed1"

dataset = "text8"
batch_size = 32
block_size = 256

n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
activation = "gelu_tanh"  # as the records of the NoisyTune studies

max_iters = 20_000
learning_rate = 5e-4
warmup_iters = 200

eval_interval = 1000
