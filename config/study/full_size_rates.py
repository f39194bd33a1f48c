"""The paper's own size at other learning rates, on seeds of their own: baseline and noise of full_size."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16")

_kinds = {"baseline": {}, "noise": dict(noise_sigma=0.1, noise_gamma=0.99)}
_rates = ("5e-4", "1e-3", "2e-3", "4e-3")
arms = {
    f"{kind}_lr{rate}": dict(learning_rate=float(rate), min_lr=float(rate) / 10, **options)
    for rate in _rates
    for kind, options in _kinds.items()
}
baseline = "baseline_lr1e-3"
seeds = (201, 202)
purpose = "tuning"
