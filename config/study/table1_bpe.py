"""Table 1's baseline, strongest and mildest cell on GPT-2's tokens of tinyshakespeare."""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", dataset="shakespeare_bpe")

arms = {
    "baseline": {},
    "sigma0.1_gamma0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "sigma0.01_gamma0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
baseline = "baseline"
seeds = range(291, 295)
