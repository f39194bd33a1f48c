"""NoisyTune at the learning rate that suits fine-tuning best, on the whole corpus and on 50,000 characters.

The rates are noisytune_rates.py's at cpu.py's size, where the best is the same with NoisyTune and without; on
fewer data they were not tuned again.
"""

base = "config/finetune_shakespeare.py"
common = dict(
    dtype="bfloat16", activation="gelu_tanh", max_iters=1000, eval_interval=100, eval_train_tokens=16_384
)
_best = dict(learning_rate=1e-3, min_lr=1e-4)
_few = dict(train_tokens=50_000)
_lambda = dict(noisytune_lambda=0.15)

arms = {
    "fine_tuning": _best,
    "lambda0.15": {**_best, **_lambda},
    "few_fine_tuning": {**_best, **_few},
    "few_lambda0.15": {**_best, **_few, **_lambda},
}
baseline = "fine_tuning"
versus = {"few_lambda0.15": "few_fine_tuning"}
seeds = range(1, 7)
