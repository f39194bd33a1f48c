"""Optimizers: what the noise does where the second moment is shorter, longer, or absent.

SGD's learning rate is the best of sgd_rates.py, which has seeds of its own.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16")

_noise = dict(noise_sigma=0.1, noise_gamma=0.99)
_optimizers = {
    "adamw": {},
    "adamw_beta2_0.95": dict(beta2=0.95),
    "adamw_beta2_0.999": dict(beta2=0.999),
    "adam": dict(optimizer="adam", weight_decay=0.0),
    "sgd": dict(optimizer="sgd", weight_decay=0.0, learning_rate=1.0, min_lr=0.1),
}
arms = {
    **_optimizers,
    **{f"{name}+noise": {**knobs, **_noise} for name, knobs in _optimizers.items()},
}
baseline = "adamw"
versus = {f"{name}+noise": name for name in _optimizers}
seeds = range(1, 5)
