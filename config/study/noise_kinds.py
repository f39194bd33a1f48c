"""Kinds of noise: other distributions of the same sd, and noise in the first or the last block alone."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384)

_noise = dict(noise_sigma=0.1, noise_gamma=0.99)
arms = {
    "baseline": {},
    "gaussian": _noise,
    **{name: {**_noise, "noise_distribution": name} for name in ("laplace", "uniform")},
    **{name: {**_noise, "noise_params": name} for name in ("first_block", "last_block")},
}
baseline = "baseline"
versus = {"laplace": "gaussian", "uniform": "gaussian"}
seeds = range(281, 287)
