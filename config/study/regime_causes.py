"""Causes in the regime: through what is the strongest cell better where training overfits?

Run it with config/regime.py. regime.py and regime_again.py found its best validation loss 0.0251 and 0.0201
below the baseline's, at a learning rate of 4e-3. Three causes, each alone and without noise in the gradients:

    wider_init   the random displacement that the noise adds up to, in the initial weights: its sd is 0.032
                 here (theory.py), beside 0.02 or less
    variance     the noise's mean variance in AdamW's second moment, which delays training
    lr1e-3       a quarter of the learning rate, the paper's

Written before the runs. We expect of the best validation loss, against the baseline: wider_init lower by 0.01
to 0.05; variance within 0.03, not resolved; lr1e-3 within 0.03, not resolved. A cause is enough if its 95 %
interval lies below 0. It is too little if its interval lies above -0.0201.
"""

from config.study import two_effects as _effects

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", learning_rate=4e-3, min_lr=4e-4)

arms = {
    "baseline": {},
    "wider_init": _effects.arms["init_alone"],
    "variance": _effects.arms["second_moment_mean"],
    "lr1e-3": dict(learning_rate=1e-3, min_lr=1e-4),
}
baseline = "baseline"
seeds = range(291, 299)
