"""Stories in subwords: the baseline, and Table 1's strongest and mildest cell.

The text is TinyStories, or another by --dataset=text_bpe.
"""

from config.study import larger_char as _characters

base = "config/tinystories_bpe.py"
common, arms, baseline = _characters.common, _characters.arms, _characters.baseline
seeds = range(451, 455)
