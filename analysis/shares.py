"""The share S of the learning rate that an arm's noise leaves, from its runs' own logs. No torch.

S and the sums that it is made of are in theory.py.
"""

import numpy as np
import pandas as pd

from analysis import records, statistics, theory


def arm_shares(found):
    """A frame, a row for every arm that is its reference but for absolute noise, under Adam: study, arm,
    corpus, n; share (S, v from the run's own clipped gradients) and squares (the sum of sigma_t^2), means over
    runs; harm and half_width (best val loss minus the reference's, nats)."""
    logged = dict(list(found.curves[found.curves.kind == "train"].groupby("folder")))
    rows = []
    for study, size in found.runs[["study", "size"]].drop_duplicates().itertuples(index=False):
        runs = dict(list(found.of(study=study, size=size).runs.groupby(["setting", "arm"])))
        for row in statistics.compare(found, study, size, "best_val_loss").reset_index().itertuples():
            arm, reference = (runs[row.setting, name] for name in (row.arm, row.reference))
            ran = [run for run in arm.itertuples() if run.folder in logged]  # one may diverge before any log
            if ran and is_absolute(arm.config.iloc[0], reference.config.iloc[0]):
                each = [share_and_squares(run, logged[run.folder]) for run in ran]
                place = [study, row.arm, arm.corpus_name.iloc[0], row.n]
                rows.append([*place, *np.mean(each, axis=0), row.mean, row.half_width])
    columns = ["study", "arm", "corpus", "n", "share", "squares", "harm", "half_width"]
    return pd.DataFrame(rows, columns=columns)


def is_absolute(config, reference):
    """Whether a run is its reference but for absolute noise in the gradient, under a second moment."""
    if config.program != "train":
        return False
    plain = (config.noise_scale, config.noise_target, config.noise_params) == ("absolute", "gradient", "all")
    plain &= not (config.noise_before_clip or config.noise_anticorrelated or config.reset_below_sigma)
    changed = records.changed_options(config, reference)
    alone = all(name.startswith(("noise_", "plateau_")) for name in changed)
    return config.noisy and plain and alone and config.optimizer in ("adamw", "adam") and not reference.noisy


def share_and_squares(run, events):
    """S of one run and the sum of its sigma_t^2, sigma as it was logged."""
    config = run.config
    sigma = theory.sigma_between(*events[["iter", "sigma"]].dropna().to_numpy().T, config.max_iters)
    v = theory.mean_square(events.grad_norm.dropna(), config.grad_clip, run.parameters)
    return theory.share(theory.learning_rates(config), sigma, v, config.beta2), np.sum(sigma**2)
