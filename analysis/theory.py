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


def second_moment(sigma, beta2):
    """s_t of a sequence of sigma_t, of the same shape."""
    return lfilter([1 - beta2], [1, -beta2], np.square(sigma))


def clean_moment(v, beta2, steps):
    """v_t = v (1 - beta2^(t+1)) at t = 0 ... steps - 1."""
    return v * -np.expm1(np.arange(1, steps + 1) * math.log(beta2))


def signal(sigma, v, beta2):
    """sqrt(v_t / (v_t + s_t)), the signal in an update in learning rates; 1 without noise."""
    clean = clean_moment(v, beta2, len(sigma))
    return np.sqrt(clean / (clean + second_moment(sigma, beta2)))


def share(rates, sigma, v, beta2):
    """S = sum_t lr_t sqrt(v_t / (v_t + s_t)) / sum_t lr_t, the share of the learning rate that the noise
    leaves: from 0 to 1, 1 without noise."""
    return float(np.dot(rates, signal(sigma, v, beta2)) / np.sum(rates))


def half_time(sigma, v, beta2, part=0.5):
    """The first t at which the signal is at least `part` of what it is without noise: for a half, s_t <= 3 v_t.
    None where that is not within the sequence."""
    reached = np.flatnonzero(signal(sigma, v, beta2) >= part)
    return int(reached[0]) if len(reached) else None


def half_time_formula(sigma0, gamma, v, beta2):
    """The half time of sigma_t = sigma0 gamma^t where gamma^2 < beta2, with v_t and s_t as they are later on:

    t_1/2 = ln(1 + sigma0^2 (1 - beta2) beta2 / (3 v (beta2 - gamma^2))) / -ln beta2
    """
    return math.log1p(sigma0**2 * (1 - beta2) * beta2 / (3 * v * (beta2 - gamma**2))) / -math.log(beta2)


def mean_square(norms, clip, parameters):
    """v, the mean square of an element of the clipped gradient, from the norms before clipping at `clip` (0:
    not clipped) and the number of parameters."""
    return float(np.mean(np.minimum(norms, clip or math.inf) ** 2)) / parameters


def learning_rates(steps, peak, least, warmup, decay):
    """lr_t as train.py has it: up to `peak` in `warmup` iterations, by a cosine to `least` at `decay`."""
    t = np.arange(steps)
    progress = np.clip((t - warmup) / max(1, decay - warmup), 0, 1)
    rising = peak * (t + 1) / (warmup + 1)
    return np.where(t < warmup, rising, least + (peak - least) * (1 + np.cos(np.pi * progress)) / 2)


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
