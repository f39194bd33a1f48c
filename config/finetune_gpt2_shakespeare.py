"""Fine-tune GPT-2 (124 M parameters) on tinyshakespeare in GPT-2's own tokens.

The weights are openai-community/gpt2, a folder with config.json and model.safetensors, to be downloaded first
(docs/runs.md says how). Batches, context, learning rate and length are those of nanoGPT's
config/finetune_shakespeare.py, which takes the larger gpt2-xl, and beta2 is its train.py's: 32,768 tokens per
iteration, 2.2 epochs in all.
"""

init_from = "out/gpt2"

dataset = "shakespeare_bpe"
batch_size = 4
gradient_accumulation_steps = 8
block_size = 1024

n_layer = 12
n_head = 12
n_embd = 768
dropout = 0.0
bias = True
activation = "gelu_tanh"

max_iters = 20
learning_rate = 3e-5
min_lr = 3e-5  # a constant rate
warmup_iters = 0
beta2 = 0.95

eval_interval = 5
log_interval = 1
