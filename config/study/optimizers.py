"""Optimizers: what the noise does where the second moment is shorter, longer, or absent.

SGD's learning rate is the best of sgd_rates.py at cpu.py's size, chosen on other seeds. Relative noise is in
units of the gradient's RMS: SGD has no second moment to divide absolute noise away. Adam has no weight decay:
`adam` is what regularizers.py calls `none`, and `adamw` its `weight_decay`.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", eval_train_tokens=16_384)

_noise = dict(noise_sigma=0.1, noise_gamma=0.99)
_relative = dict(noise_sigma=1.0, noise_gamma=0.99, noise_scale="global")
_optimizers = {
    "adamw": {},
    "adamw_beta2_0.95": dict(beta2=0.95),
    "adamw_beta2_0.999": dict(beta2=0.999),
    "adam": dict(optimizer="adam", weight_decay=0.0),
    "sgd": dict(optimizer="sgd", weight_decay=0.0, learning_rate=0.3, min_lr=0.03),
}
arms = {
    **_optimizers,
    **{f"{name}+noise": {**options, **_noise} for name, options in _optimizers.items()},
}
for _name in ("adamw", "sgd"):
    arms[f"{_name}+relative"] = {**_optimizers[_name], **_relative}
baseline = "adamw"
versus = {arm: arm.split("+")[0] for arm in arms if "+" in arm}
seeds = range(1, 5)
