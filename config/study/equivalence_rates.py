"""Learning rates for equivalence.py: a grid by sqrt 2 about tuning.py's best, on seeds of its own."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384)

_kinds = {
    "baseline": (4e-3, {}),
    "warmup500": (4e-3, dict(warmup_iters=500)),
    "wide_init": (4e-3, dict(init_scale=2.0)),
    "noise_0.1_0.99": (8e-3, dict(noise_sigma=0.1, noise_gamma=0.99)),
    "noise_0.01_0.95": (8e-3, dict(noise_sigma=0.01, noise_gamma=0.95)),
}
_rates = {kind: [round(best * 2**power, 5) for power in (-0.5, 0, 0.5)] for kind, (best, _) in _kinds.items()}
arms = {
    f"{kind}_lr{rate:g}": dict(learning_rate=rate, min_lr=rate / 10, **options)
    for kind, (_, options) in _kinds.items()
    for rate in _rates[kind]
}
baseline = "baseline_lr0.004"
seeds = range(261, 265)
purpose = "tuning"
