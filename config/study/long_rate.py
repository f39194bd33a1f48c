"""Long rate: over 5,000 iterations at 4e-3, does the noise gain, and does half the rate? Eight new seeds.

4e-3 is the baseline's best rate over 2,000 iterations; over 5,000 no study has tuned it. There law.py has the
strongest cell 0.0230 +- 0.0176 lower than no noise (four seeds, unadjusted), where its predictions were harms.

We expect it to be as in twice_the_rate.py: both lower than no noise at 4e-3, by 0.005 to 0.03, since a longer
run wants a lower rate. Refuted for either: its 95 % interval holds 0 or lies above it.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384, max_iters=5000, eval_interval=625)
common |= dict(learning_rate=4e-3, min_lr=4e-4)

arms = {
    "baseline": {},
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "half_the_rate": dict(learning_rate=2e-3, min_lr=2e-4),
}
baseline = "baseline"
seeds = range(493, 501)
