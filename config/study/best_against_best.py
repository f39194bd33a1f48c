"""Best against best: baseline, longer warm-up and noise, each at the learning rate that suits it best.

The rates are tuning.py's at cpu.py's size, chosen on seeds that are not these; another size needs tuning first.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh")

arms = {
    "baseline": dict(learning_rate=4e-3, min_lr=4e-4),
    "warmup500": dict(learning_rate=4e-3, min_lr=4e-4, warmup_iters=500),
    "noise_0.1_0.99": dict(learning_rate=8e-3, min_lr=8e-4, noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(learning_rate=8e-3, min_lr=8e-4, noise_sigma=0.01, noise_gamma=0.95),
}
baseline = "baseline"
seeds = range(1, 7)
