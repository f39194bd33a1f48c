"""A larger text in subwords: the baseline, and Table 1's strongest and mildest cell.

The text is WikiText-103, or another by --dataset=text_bpe.
"""

from config.study import larger_char as _characters

base = "config/wikitext103_bpe.py"
common, arms, baseline = _characters.common, _characters.arms, _characters.baseline
seeds = range(441, 445)
