"""A/A control: what the method reports where there is no effect.

One arm differs from the baseline only in the order of its batches. The other has noise of sd 1e-9, a millionth
of a gradient's element: like the pairs of other studies it shares initial weights and batches with the
baseline, and it differs only by rounding.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh")

arms = {
    "baseline": {},
    "other_order": dict(data_seed=lambda run: 1000 + run.seed),
    "rounding": dict(noise_sigma=1e-9, noise_gamma=1.0),
}
baseline = "baseline"
seeds = range(1, 7)
