"""Twice the rate: curvature.py's gain at 8e-3, which nobody had asked for, on thirty-two new seeds.

At 8e-3, twice the baseline's best rate, the strongest cell's best validation loss was 0.0052 +- 0.0044 lower
than without noise (p 0.046, sixteen seeds). Nor has any study shown that 8e-3 is too high without noise: half
the rate is 0.0057 +- 0.0068 lower, by equivalence.py's forty seeds, which are other ones than curvature.py's.

We expect both, the noise and half the rate, to be lower than no noise at 8e-3, by up to 0.01: the noise makes
up for a rate that is too high. Refuted for either: its 95 % interval holds 0 or lies above it.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", learning_rate=8e-3, min_lr=8e-4)

arms = {
    "baseline": {},
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "half_the_rate": dict(learning_rate=4e-3, min_lr=4e-4),
}
baseline = "baseline"
seeds = range(461, 493)
