"""Flatness: noise and none at one learning rate, where their train losses come close, for training.sharpness.

How sharp a minimum is goes with the learning rate and the train loss. At cpu.py's size 8e-3 is tuning.py's best
rate for the noise and next to the best, 4e-3, for the baseline: the fourth arm shows what the rate does.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", learning_rate=8e-3, min_lr=8e-4)

arms = {
    "baseline": {},
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
    "half_the_rate": dict(learning_rate=4e-3, min_lr=4e-4),
}
baseline = "baseline"
seeds = range(1, 5)
