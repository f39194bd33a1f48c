"""The arms of direction.py over 5,000 iterations, a family of their own."""

from config.study import direction as _short

base, arms, baseline = _short.base, _short.arms, _short.baseline
common = {**_short.common, "max_iters": 5000}
seeds = _short.seeds
