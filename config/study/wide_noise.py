"""Wide noise: does the noise add to a wider initialization? Over 5,000 iterations, each at its best rate.

In long_tuned.py the strongest cell has a lower loss than no noise, and initial weights twice as wide have a
lower one still. If the noise gains by the width that its draws add, it gains nothing where the weights are
wide, and its variance in v still harms. The rates are those that were best in long_tuned_rates.py and
wide_noise_rates.py, on other seeds; the noise's is the lowest of its grid.

We expect the noise on wider weights to be higher than wider weights alone, by 0 to 0.02. Refuted: its 95 %
interval holds 0 or lies below it.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384, max_iters=5000, eval_interval=625)
common |= dict(learning_rate=2e-3, min_lr=2e-4, init_scale=2.0)

arms = {
    "wide_init": {},
    "wide_init_noise": dict(noise_sigma=0.1, noise_gamma=0.99),
}
baseline = "wide_init"
seeds = range(525, 533)
