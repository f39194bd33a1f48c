"""RTE: does one sentence follow from another? The score is accuracy.

python data/glue/prepare.py rte gets the texts, docs/glue.md says where an encoder is to be had.
"""

task = "rte"
model = "models/minilm"  # 6 layers x 384, 22.7 M parameters
batch_size = 32
max_length = 128

max_iters = 234  # 3 passes over 2,490 pairs
learning_rate = 1e-4
warmup_iters = 23  # a tenth

eval_interval = 78  # each pass
