"""Table 1 on text8: the baseline and the six cells of the paper's grid."""

from config.study import table1_shakespeare as _shakespeare

base = "config/text8_baseline.py"
common, arms, baseline = _shakespeare.common, _shakespeare.arms, _shakespeare.baseline
seeds = range(1, 5)
together = "table1"
