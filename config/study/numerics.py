"""Numerics: do the form of the GELU and the precision change the loss? One at a time, against the baseline.

`python -m bench config/shakespeare_baseline.py config/cpu.py --losses=8 --seed=401` has nanoGPT's recipe beside
the same seeds: float32, other draws of batches, and PyTorch's own operators.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384)

arms = {
    "baseline": {},
    "gelu_tanh": dict(activation="gelu_tanh"),
    "float32": dict(dtype="float32"),
}
baseline = "baseline"
seeds = range(401, 409)
