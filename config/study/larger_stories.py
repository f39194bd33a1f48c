"""Stories in subwords: the baseline, and Table 1's strongest and mildest cell.

The text is TinyStories, or another by --dataset=text_bpe.
"""

base = "config/tinystories_bpe.py"
common = dict(dtype="bfloat16")

arms = {
    "baseline": {},
    "sigma0.1_gamma0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "sigma0.01_gamma0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
baseline = "baseline"
seeds = range(451, 455)
