"""A first run of a minute: a small model, the paper's noise, a corpus that comes with Python.

python train.py config/quickstart.py
python sweep.py config/study/quickstart.py --jobs=2 --plot       beside its baseline, three seeds each
"""

dataset = "pydoc_char"
batch_size = 12
block_size = 64

n_layer = 4
n_head = 4
n_embd = 128
dropout = 0.0

max_iters = 500
learning_rate = 2e-3
warmup_iters = 50

noise_schedule = "exponential"
noise_sigma = 0.1
noise_gamma = 0.99

eval_interval = 50
eval_tokens = 8_192
eval_train_tokens = 8_192
checkpoint_interval = 250
sample_tokens = 400

dtype = "float32"  # as fast as bfloat16 or faster on CPUs without units for it
plot = True
