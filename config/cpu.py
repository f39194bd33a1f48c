"""An overlay for machines without a GPU: nanoGPT's CPU size, one to three minutes on two cores.

python train.py config/shakespeare_noise.py config/cpu.py
"""

batch_size = 12
block_size = 64
gradient_accumulation_steps = 1

n_layer = 4
n_head = 4
n_embd = 128
dropout = 0.0

max_iters = 2000

eval_interval = 250
