"""Sensitivity: sigma_0 by decades, from far above the gradient's own scale to far under it, times gamma."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", eval_train_tokens=16_384)

_cells = [
    (sigma, gamma) for sigma in ("1e-5", "1e-4", "1e-3", "1e-2", "1e-1") for gamma in (0.9, 0.99, 0.999, 0.9999)
]
arms = {
    "baseline": {},
    **{
        f"sigma{sigma}_gamma{gamma}": dict(noise_sigma=float(sigma), noise_gamma=gamma)
        for sigma, gamma in _cells
    },
}
baseline = "baseline"
seeds = range(1, 5)  # of 20 comparisons two pairs would resolve only those of |t| above 254
