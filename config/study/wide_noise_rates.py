"""Learning rates for wide_noise.py: the strongest cell on initial weights twice as wide, 5,000 iterations.

Without noise long_tuned_rates.py has the best rate of such weights, 2e-3.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384, max_iters=5000, eval_interval=625)
common |= dict(init_scale=2.0, noise_sigma=0.1, noise_gamma=0.99)

arms = {
    f"wide_init_noise_lr{rate:g}": dict(learning_rate=rate, min_lr=rate / 10) for rate in (2e-3, 2.83e-3, 4e-3)
}
baseline = "wide_init_noise_lr0.002"
seeds = range(521, 525)
purpose = "tuning"
