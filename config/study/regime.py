"""The paper's regime, scaled, with config/regime.py: the baseline and two cells, each at its own best rate.

The rates are to be those that regime_rates.py chooses, on seeds that are not these.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", learning_rate=2e-3, min_lr=2e-4)

arms = {
    "baseline": {},
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
baseline = "baseline"
seeds = range(273, 281)
