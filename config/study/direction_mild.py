"""Direction, mild: the arms of direction.py with the noise of the mildest cell, (0.01, 0.95).

Written before the runs. In the first seed of `law` the mildest cell does 3 to 10 times the harm that S predicts
at half the length or half the width, and in `mechanism` a learning rate that leaves the same S has 12 % of its
harm. So we expect that this cell harms by the direction: `noisy_direction` has 60 % or more of the variance's
harm, and `clean_direction` 30 % or less. Refuted: `clean_direction` has more than `noisy_direction`.
"""

from config.study import direction as _direction

base, baseline = _direction.base, _direction.baseline
common = dict(dtype="bfloat16", eval_train_tokens=16_384)
_mild = dict(noise_sigma=0.01, noise_gamma=0.95)
arms = {arm: {**options, **_mild} if options else {} for arm, options in _direction.arms.items()}
seeds = range(251, 255)
