"""Regime again: is the strongest cell better where training overfits? Ten new seeds for regime.py's hint.

Run it with config/regime.py. Written when four of regime.py's five seeds had ended: the strongest cell's best
validation loss was 0.025 below the baseline's in the mean, better on three seeds. That may be chance. It may be
the wider initialization that the noise adds up to: at this learning rate it makes the initial weights 1.9 times
as wide, and wider weights help at cpu.py's size (two_effects_tuned).

We expect a best validation loss that is lower than the baseline's, by 0.005 to 0.03. Refuted: the 95 % interval
holds 0 or lies above it.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", learning_rate=4e-3, min_lr=4e-4)

arms = {"baseline": {}, "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99)}
baseline = "baseline"
seeds = range(281, 291)
