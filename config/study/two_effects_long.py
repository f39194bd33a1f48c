"""The arms of two_effects.py over 5,000 iterations, a family of their own."""

from config.study import two_effects as _short

base, arms, baseline, versus = _short.base, _short.arms, _short.baseline, _short.versus
common = {**_short.common, "max_iters": 5000}
seeds = range(201, 207)
