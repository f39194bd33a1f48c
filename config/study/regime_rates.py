"""Learning rates in the regime of regime.py, on seeds of their own; with config/regime.py.

The baseline's best is that of regime.py. The cells' show whether noise would want another.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16")

_kinds = {
    "baseline": {},
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
arms = {
    f"{kind}_lr{rate}": dict(learning_rate=float(rate), min_lr=float(rate) / 10, **options)
    for kind, options in _kinds.items()
    for rate in ("1e-3", "2e-3", "4e-3")
}
baseline = "baseline_lr1e-3"
seeds = (271, 272)
purpose = "tuning"
