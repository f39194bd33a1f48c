"""Equivalence: at each arm's own best rate, is the noise within the paper's 0.0042 of the baseline?

The rates are those that were best in equivalence_rates.py at cpu.py's size, on seeds that are not these; the
mildest cell's and warmup500's are the highest of their grid.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384)

arms = {
    "baseline": dict(learning_rate=4e-3, min_lr=4e-4),
    "noise_0.1_0.99": dict(learning_rate=8e-3, min_lr=8e-4, noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(learning_rate=0.01131, min_lr=0.001131, noise_sigma=0.01, noise_gamma=0.95),
    "warmup500": dict(learning_rate=0.00566, min_lr=0.000566, warmup_iters=500),
    "wide_init": dict(learning_rate=4e-3, min_lr=4e-4, init_scale=2.0),
}
baseline = "baseline"
seeds = range(301, 341)
