"""SST-2, its sentences: is a film liked? The score is accuracy.

python data/glue/prepare.py sst2 gets the texts, docs/glue.md says where an encoder is to be had.
"""

task = "sst2"
model = "models/minilm"  # 6 layers x 384, 22.7 M parameters
batch_size = 32
max_length = 128

max_iters = 651  # 3 passes over 6,920 texts
learning_rate = 1e-4
warmup_iters = 65  # a tenth

eval_interval = 217  # each pass
