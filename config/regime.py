"""An overlay with the paper's regime at a size for two cores: 82 epochs of 100,000 characters, which overfits.

The first cell's half time is about the share of the run that it is at the paper's size.
"""

train_tokens = 100_000
batch_size = 16
block_size = 128

n_layer = 4
n_head = 6
n_embd = 192
dropout = 0.2

max_iters = 4000
