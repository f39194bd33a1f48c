"""CoLA: is a sentence acceptable? The score is Matthews' correlation.

python data/glue/prepare.py cola gets the texts, docs/glue.md says where an encoder is to be had.
"""

task = "cola"
model = "models/minilm"  # 6 layers x 384, 22.7 M parameters
batch_size = 32
max_length = 128

max_iters = 804  # 3 passes over 8,551 texts
learning_rate = 1e-4
warmup_iters = 80  # a tenth

eval_interval = 268  # each pass
