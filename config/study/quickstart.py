"""Quickstart: the baseline and the paper's noise, short, on the corpus that comes with Python.

Two or three minutes on two CPU cores: python sweep.py config/study/quickstart.py --jobs=2 --plot
"""

base = "config/quickstart.py"
common = dict(sample_tokens=0, plot=False)

arms = {
    "baseline": dict(noise_sigma=0.0),
    "noise": dict(noise_sigma=0.1, noise_gamma=0.99),
}
baseline = "baseline"
seeds = (1, 2, 3)
