"""S as an index: the variance in v under a shorter and a longer memory, and optimizers without one.

Lion's learning rate is the best of lion_rates.py, SGD's is that of sgd_rates.py. docs/hypotheses.md says
what is expected; of the eight seeds that it names the first four are planned.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384)

_noise = dict(noise_sigma=0.1, noise_gamma=0.99)
_mean = {**_noise, "noise_target": "second_moment_mean"}
_relative = dict(noise_sigma=1.0, noise_gamma=0.99, noise_scale="global")
_optimizers = {
    "beta2_0.95": (dict(beta2=0.95), "mean", _mean),
    "beta2_0.999": (dict(beta2=0.999), "mean", _mean),
    "lion": (dict(optimizer="lion", learning_rate=8e-4, min_lr=8e-5), "noise", _noise),
    "sgd": (dict(optimizer="sgd", weight_decay=0.0, learning_rate=0.3, min_lr=0.03), "relative", _relative),
}
arms = {name: options for name, (options, _, _) in _optimizers.items()}
for _name, (_options, _word, _more) in _optimizers.items():
    arms[f"{_name}+{_word}"] = {**_options, **_more}
baseline = "beta2_0.95"
versus = {arm: arm.split("+")[0] for arm in arms if "+" in arm}
seeds = range(241, 245)
