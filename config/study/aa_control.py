"""A/A control: two baselines that differ in nothing but the order of their batches."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16")

arms = {
    "baseline": {},
    "other_order": dict(data_seed=lambda run: 1000 + run.seed),
}
baseline = "baseline"
seeds = range(1, 7)
