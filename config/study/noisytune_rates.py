"""NoisyTune's rates: learning rates for fine-tuning with it and without, on seeds of its own.

All start from one model of config/pretrain_text8_small.py.
"""

base = "config/finetune_shakespeare.py"
common = dict(
    dtype="bfloat16", activation="gelu_tanh", max_iters=1000, eval_interval=250, eval_train_tokens=16_384
)

_kinds = {"fine_tuning": {}, "lambda0.15": dict(noisytune_lambda=0.15)}
_rates = ("3e-4", "1e-3", "2e-3", "4e-3", "8e-3")
arms = {
    f"{kind}_lr{rate}": dict(learning_rate=float(rate), min_lr=float(rate) / 10, **options)
    for kind, options in _kinds.items()
    for rate in _rates
}
baseline = "fine_tuning_lr3e-4"
seeds = (101, 102)
purpose = "tuning"
