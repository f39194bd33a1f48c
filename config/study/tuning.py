"""Tuning: learning rates for the baseline, a longer warm-up and noise, on seeds of its own."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh")

_kinds = {
    "baseline": {},
    "warmup500": dict(warmup_iters=500),
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
_rates = ("1e-3", "2e-3", "4e-3", "8e-3", "1.6e-2")
arms = {
    f"{kind}_lr{rate}": dict(learning_rate=float(rate), min_lr=float(rate) / 10, **options)
    for kind, options in _kinds.items()
    for rate in _rates
}
baseline = "baseline_lr1e-3"
seeds = (101, 102)
purpose = "tuning"
