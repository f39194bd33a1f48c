"""Two effects: the noise as its variance in the second moment and a wider initialization, and nothing else.

The sd of `init_noise` is that of the random displacement that the noise adds up to through the first moment
(theory.py), for gradients of norm 1. docs/hypotheses.md says what is expected.
"""

import numpy as np

from analysis.theory import displacement_sd, learning_rates

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", eval_train_tokens=16_384)


def _displacement_sd(run):
    sigma, v = 0.1 * 0.99 ** np.arange(run.max_iters), 1 / (12 * run.n_layer * run.n_embd**2)
    return displacement_sd(learning_rates(run), sigma, v, (run.beta1, run.beta2))


_noise = dict(noise_sigma=0.1, noise_gamma=0.99)
_mean = {**_noise, "noise_target": "second_moment_mean"}
arms = {
    "baseline": {},
    "noise": _noise,
    "second_moment_mean": _mean,
    "mean_and_init": {**_mean, "init_noise": _displacement_sd},
    "init_alone": dict(init_noise=_displacement_sd),
}
baseline = "baseline"
versus = dict.fromkeys(("second_moment_mean", "mean_and_init"), "noise")
seeds = range(201, 209)
