"""Long tuned: over 5,000 iterations, noise and no noise each at its best rate. Sixteen new seeds.

In long_rate.py the strongest cell at 4e-3 had a lower loss than no noise at 2e-3, which nobody had asked. Here
each has the rate that was best in long_tuned_rates.py at cpu.py's size, on seeds that are not these. Beside
them stands, without noise, what hypothesis 1 takes the noise's draws for: a wider initialization.

We expect the noise to be lower than no noise by 0.002 to 0.015, the first gain here at a tuned rate, and the
wider initialization by 0.02 to 0.05. Refuted for either: its 95 % interval holds 0 or lies above it.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384, max_iters=5000, eval_interval=625)

arms = {
    "baseline": dict(learning_rate=2e-3, min_lr=2e-4),
    "noise_0.1_0.99": dict(learning_rate=4e-3, min_lr=4e-4, noise_sigma=0.1, noise_gamma=0.99),
    "wide_init": dict(learning_rate=2e-3, min_lr=2e-4, init_scale=2.0),
}
baseline = "baseline"
seeds = range(505, 521)
