"""Two effects, tuned: does a wider initialization help where the learning rate is the best one?

The rate is tuning.py's for the baseline at cpu.py's size.
"""

base = "config/shakespeare_baseline.py"
common = dict(
    dtype="bfloat16", activation="gelu_tanh", eval_train_tokens=16_384, learning_rate=4e-3, min_lr=4e-4
)

arms = {"baseline": {}, **{f"init{factor:g}": dict(init_scale=factor) for factor in (1.5, 2.0, 3.0, 4.0)}}
baseline = "baseline"
seeds = range(211, 217)
