"""Regularizers: dropout, weight decay, data augmentation and gradient noise, alone and together.

Each with noise is compared with itself without it, the others with none. The noise is the mildest cell of the
paper's grid; the augmentation is input noising (Xie et al. 2017).
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", eval_train_tokens=16_384, dropout=0.0, weight_decay=0.0)

_noise = dict(noise_sigma=0.01, noise_gamma=0.95)
_others = {
    "dropout": dict(dropout=0.2),
    "weight_decay": dict(weight_decay=0.1),
    "augmentation": dict(input_noise=0.1),
}
arms = {
    "none": {},
    "noise": _noise,
    **_others,
    **{f"{name}+noise": {**options, **_noise} for name, options in _others.items()},
    "three": dict(dropout=0.2, weight_decay=0.1, input_noise=0.1),
    "three+noise": dict(dropout=0.2, weight_decay=0.1, input_noise=0.1, **_noise),
}
baseline = "none"
versus = {f"{name}+noise": name for name in (*_others, "three")}
seeds = range(1, 5)
