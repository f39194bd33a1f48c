"""The paper's own size on tinyshakespeare: the noise that is predicted to do most, and the mildest.

For a CUDA card: python -m bench.gpu train. First baseline and noise of every seed, then mild.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16")

arms = {
    "baseline": {},
    "noise": dict(noise_sigma=0.1, noise_gamma=0.99),
    "mild": dict(noise_sigma=0.01, noise_gamma=0.95),
}
baseline = "baseline"
seeds = range(1, 17)
