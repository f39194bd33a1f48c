"""Kinds of noise: other distributions of the same sd, and noise in the first or the last block alone.

Written before any run of this. The noise acts by its variance in v, which is the same for every distribution of
one sd. So we expect the best validation loss with Laplace and with uniform noise within 0.01 of that with
Gaussian noise, not resolved; refuted: a 95 % interval that lies beyond 0.01. A block has a quarter of the
weights. We expect noise in it alone to be worse than none, by less than half of the whole noise's harm;
refuted: an interval that lies above half of that mean harm, or one that lies below 0.
"""

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
