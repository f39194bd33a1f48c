"""What annealed gradient noise does in AdamW's second moment, as arithmetic on arrays. No torch.

AdamW divides by sqrt(v), an average of squared gradients with decay beta2. Noise of variance sigma_t^2 adds

    s_t = (1 - beta2) sum_{k<=t} beta2^(t-k) sigma_k^2

to it in expectation. With clean gradients of mean square v an element, v_t = v (1 - beta2^(t+1)) is their own
part, and the signal in an update is lr_t sqrt(v_t / (v_t + s_t)): bias correction divides both parts alike.
One v stands for all elements and all iterations; this is an approximation.

Everywhere t = 0, 1, ... is the iteration, sigma the standard deviation of the noise in units of the gradient's
elements, and arrays of a run have one value an iteration.
"""

import math

import numpy as np
from scipy.signal import lfilter
from scipy.special import erf

from config import UserError


def second_moment(sigma, beta2):
    """s_t of a sequence of sigma_t, of the same shape."""
    return lfilter([1 - beta2], [1, -beta2], np.square(sigma))


def signal(sigma, v, beta2):
    """sqrt(v_t / (v_t + s_t)), the signal in an update in learning rates; 1 without noise."""
    clean = v * -np.expm1(np.arange(1, len(sigma) + 1) * math.log(beta2))
    return np.sqrt(clean / (clean + second_moment(sigma, beta2)))


def share(rates, sigma, v, beta2):
    """S = sum_t lr_t sqrt(v_t / (v_t + s_t)) / sum_t lr_t, the share of the learning rate that the noise
    leaves: from 0 to 1, 1 without noise."""
    return float(np.dot(rates, signal(sigma, v, beta2)) / np.sum(rates))


def sigmas(config):
    """sigma_t at t = 0 ... max_iters - 1 of a run whose noise is absolute and decays exponentially."""
    if (config.noise_schedule, config.noise_scale) != ("exponential", "absolute"):
        kind = f"{config.noise_scale}, {config.noise_schedule}"
        raise UserError(f"this holds for noise that is absolute and exponential, not {kind}")
    return config.noise_sigma * config.noise_gamma ** np.arange(config.max_iters)


def share_of(config, v):
    """S of a run under AdamW whose sigma decays exponentially."""
    return share(learning_rates(config), sigmas(config), v, config.beta2)


def lion_share(config, v):
    """The same under Lion, which steps by the sign of c_t, for gradients of +-sqrt v:

    sum_t lr_t erf(E c_t / sqrt(2 Var c_t)) / sum_t lr_t,   erf being the mean of the sign
    """
    beta1, beta2, rates, sigma = config.beta1, config.beta2, learning_rates(config), sigmas(config)
    before = lfilter([0, (1 - beta2) ** 2], [1, -(beta2**2)], np.square(sigma))  # the variance of m_(t-1)
    variance = (1 - beta1) ** 2 * np.square(sigma) + beta1**2 * before
    mean = math.sqrt(v) * (1 - beta1 * beta2 ** np.arange(len(sigma)))
    return float(np.dot(rates, erf(mean / np.sqrt(2 * variance))) / np.sum(rates))


def parameters(config, symbols):
    """How many a GPT without biases has."""
    width = config.n_embd
    return (12 * width + 2) * width * config.n_layer + (symbols + config.block_size + 1) * width


def displacement_sd(rates, sigma, v, betas):
    """The sd of the random displacement of a weight that the noise adds up to through AdamW's first moment:

        sum_t sigma_t^2 w_t^2,  w_t = sum_{u>=t} lr_u (1 - beta1) beta1^(u-t) / ((1 - beta1^(u+1)) sqrt(v^_u)),

    squared, where w_t is how far one unit of xi_t moves a weight by the end of the run, and v^_u = v + s_u /
    (1 - beta2^(u+1)) is the bias-corrected second moment. That is its mean: the chance in v is left out, and
    so are epsilon and what weight decay takes back.
    """
    beta1, beta2 = betas
    t = np.arange(1, len(sigma) + 1)
    corrected = v + second_moment(sigma, beta2) / -np.expm1(t * math.log(beta2))
    moves = rates * (1 - beta1) / ((1 - beta1**t) * np.sqrt(corrected))
    in_all = lfilter([1], [1, -beta1], moves[::-1])[::-1]
    return float(np.sqrt(np.sum(np.square(sigma * in_all))))


def half_time(sigma, v, beta2):
    """The first t at which the signal is at least half of what it is without noise: s_t <= 3 v_t. None where
    that is not within the sequence."""
    reached = np.flatnonzero(signal(sigma, v, beta2) >= 0.5)
    return int(reached[0]) if len(reached) else None


def mean_square(norms, clip, parameters):
    """v, the mean square of an element of the clipped gradient, from the norms before clipping at `clip` (0:
    not clipped) and the number of parameters."""
    return float(np.mean(np.minimum(norms, clip or math.inf) ** 2)) / parameters


def learning_rates(config):
    """lr_t as train.py has it: up to learning_rate in warmup_iters, by a cosine to min_lr at lr_decay_iters."""
    t, warmup = np.arange(config.max_iters), config.warmup_iters
    progress = np.clip((t - warmup) / max(1, config.lr_decay_iters - warmup), 0, 1)
    falling = config.min_lr + (config.learning_rate - config.min_lr) * (1 + np.cos(np.pi * progress)) / 2
    return np.where(t < warmup, config.learning_rate * (t + 1) / (warmup + 1), falling)


def sigma_between(iterations, logged, steps):
    """sigma_t at t = 0 ... steps - 1, from the values logged at some iterations, by lines in log sigma: exact
    for exponential decay. The last positive value holds to the next logged 0."""
    iterations, logged = np.asarray(iterations), np.asarray(logged, dtype=float)
    there = logged > 0
    if not there.any():
        return np.zeros(steps)
    t = np.arange(steps)
    sigma = np.exp(np.interp(t, iterations[there], np.log(logged[there])))
    ends = iterations[~there & (iterations > iterations[there][-1])]
    return np.where(t >= ends[0], 0.0, sigma) if len(ends) else sigma
