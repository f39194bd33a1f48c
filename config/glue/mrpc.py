"""MRPC: does a sentence say what another says? The score is F1.

python data/glue/prepare.py mrpc gets the texts, docs/glue.md says where an encoder is to be had.
"""

task = "mrpc"
model = "models/minilm"  # 6 layers x 384, 22.7 M parameters
batch_size = 32
max_length = 128

max_iters = 384  # 3 passes over 4,076 pairs
learning_rate = 1e-4
warmup_iters = 38  # a tenth

eval_interval = 128  # each pass
