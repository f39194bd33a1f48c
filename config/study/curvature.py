"""Curvature: flatness.py's question with sixteen other seeds, and the Hessian beside the rise of the loss.

Measure it with `python -m training.sharpness out/curvature` once the runs are done. With four seeds the rise at
rho 0.1 could be anything from 38 % lower to 14 % higher; sixteen should halve that. We expect no difference.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", learning_rate=8e-3, min_lr=8e-4)

arms = {
    "baseline": {},
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
baseline = "baseline"
seeds = range(411, 427)
