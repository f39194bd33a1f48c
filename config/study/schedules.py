"""Schedules of equal sum of sigma_t^2, the paper's first cell setting it; and at their published constants.

The relative ones count sigma in units of the gradient's own RMS (global, or each tensor's), with the sum of
exponential decay from 1 by 0.99. Plateau's sum is not known in advance: it starts as the constant does.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", eval_train_tokens=16_384)


def _equal(schedule, start, **more):
    """The options of a schedule whose sum of sigma_t^2 is that of start * 0.99^t."""
    total = start**2 / (1 - 0.99**2)

    def sigma(run):
        shares = {"linear": 1 / 3, "cosine": 3 / 8, "constant": 1.0, "plateau": 1.0}
        return (total / (shares[schedule] * run.max_iters)) ** 0.5

    def eta(run):
        return total / sum((1 + t) ** -0.55 for t in range(run.max_iters))

    amount = {
        "exponential": dict(noise_sigma=start, noise_gamma=0.99),
        "inverse": dict(noise_eta=eta),
        "plateau": dict(noise_sigma=sigma, noise_gamma=0.5, plateau_interval=25),
    }.get(schedule, dict(noise_sigma=sigma))
    return dict(noise_schedule=schedule, **amount, **more)


_names = ("exponential", "linear", "cosine", "inverse", "constant", "plateau")
arms = {
    "baseline": {},
    **{name: _equal(name, 0.1) for name in _names},
    **{f"{name}_global": _equal(name, 1.0, noise_scale="global") for name in _names},
    "exponential_tensor": _equal("exponential", 1.0, noise_scale="tensor"),
    **{f"inverse_eta{eta:g}": dict(noise_schedule="inverse", noise_eta=eta) for eta in (0.01, 0.3, 1.0)},
}
baseline = "baseline"
seeds = range(1, 5)
