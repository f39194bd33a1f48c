"""Direction, mild: the arms of direction.py with the noise of the mildest cell, (0.01, 0.95).

Written before the runs. The first seed of `law` has 2 to 10 times the harm that S predicts for the mildest cell
at other lengths and widths, and a learning rate that leaves the same S has 12 % of its harm (`mechanism`). So we
expect that this cell harms by the direction: `noisy_direction` has 60 % or more of the variance's harm, and
`clean_direction` 30 % or less. Refuted: `clean_direction` has more than `noisy_direction`.
"""

from config.study import direction as _direction

base, baseline, common = _direction.base, _direction.baseline, _direction.common
arms = {
    arm: {**options, "noise_sigma": 0.01, "noise_gamma": 0.95} if options else {}
    for arm, options in _direction.arms.items()
}
seeds = range(227, 233)
