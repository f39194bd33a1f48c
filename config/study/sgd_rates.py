"""Learning rates of SGD with momentum, on seeds of their own: which one the study of optimizers takes."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", optimizer="sgd", weight_decay=0.0)

_rates = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
arms = {f"lr{rate:g}": dict(learning_rate=rate, min_lr=rate / 10) for rate in _rates}
baseline = "lr0.3"
seeds = (101, 102)
purpose = "tuning"
