"""Learning rates of Lion, on seeds of their own: which one s_index.py takes."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", optimizer="lion")

_rates = ("1e-4", "2e-4", "4e-4", "8e-4", "1.6e-3")
arms = {f"lr{rate}": dict(learning_rate=float(rate), min_lr=float(rate) / 10) for rate in _rates}
baseline = "lr4e-4"
seeds = (101, 102)
purpose = "tuning"
