"""The regime at a lower rate: where training overfits, is the noise better than a quarter of the learning rate?

Run it with config/regime.py. regime.py and regime_again.py compare the strongest cell with no noise at 4e-3,
the rate that had the lowest loss of three on two seeds (regime_rates.py). In the first two of
regime_causes.py's eight seeds no noise at 1e-3, the paper's rate, is lower by 0.03 than no noise at 4e-3: as
much as the noise gained there. So it may have stood in for a lower rate. Here no noise at 1e-3 is what both
rates of the noise are compared with.

Written when those two seeds had ended, before any run of this. We expect, of the best validation loss against
no noise at 1e-3: the noise at 4e-3 within 0.02, not resolved; the noise at 1e-3 within 0.02, not resolved.
Refuted: a 95 % interval that lies below 0, which would mean that the noise helps at a tuned rate too.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", learning_rate=1e-3, min_lr=1e-4, noise_gamma=0.99)

arms = {
    "baseline": {},
    "noise_0.1_0.99": dict(noise_sigma=0.1),
    "noise_0.1_0.99_lr4e-3": dict(noise_sigma=0.1, learning_rate=4e-3, min_lr=4e-4),
}
baseline = "baseline"
seeds = range(341, 349)
