"""Table 1 on shakespeare_char: the baseline and the six cells of the paper's grid."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh")

arms = {
    "baseline": {},
    "sigma0.1_gamma0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "sigma0.1_gamma0.95": dict(noise_sigma=0.1, noise_gamma=0.95),
    "sigma0.05_gamma0.99": dict(noise_sigma=0.05, noise_gamma=0.99),
    "sigma0.05_gamma0.95": dict(noise_sigma=0.05, noise_gamma=0.95),
    "sigma0.01_gamma0.99": dict(noise_sigma=0.01, noise_gamma=0.99),
    "sigma0.01_gamma0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
baseline = "baseline"
seeds = range(1, 9)
together = "table1"
