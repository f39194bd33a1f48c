"""Learning rates for long_tuned.py: a grid by sqrt 2 over 5,000 iterations, on seeds of its own.

In long_rate.py no noise at 2e-3 has a lower loss than at 4e-3, and the noise a lower one at 4e-3 than either.
When two seeds had ended, the lowest rate was the best of the noise and of wide_init: each got one below it.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384, max_iters=5000, eval_interval=625)

_kinds = {
    "baseline": ((1.41e-3, 2e-3, 2.83e-3), {}),
    "wide_init": ((1.41e-3, 2e-3, 2.83e-3, 4e-3), dict(init_scale=2.0)),
    "noise_0.1_0.99": ((2e-3, 2.83e-3, 4e-3, 5.66e-3, 8e-3), dict(noise_sigma=0.1, noise_gamma=0.99)),
}
arms = {
    f"{kind}_lr{rate:g}": dict(learning_rate=rate, min_lr=rate / 10, **options)
    for kind, (rates, options) in _kinds.items()
    for rate in rates
}
baseline = "baseline_lr0.002"
seeds = range(501, 505)
purpose = "tuning"
