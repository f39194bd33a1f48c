"""What the share S predicts for the arms of a study before it is run: a table for docs/hypotheses.md.

    python -m analysis.predict config/study/law.py config/cpu.py

At 2,000 iterations and a learning rate of 1e-3 the harm of absolute noise in AdamW is a cubic in -ln S, 0 at
S = 1, fitted to the arms of KNOWN in results/, at S by their own gradients. A prediction takes S by gradients
of norm 1. For other lengths a noisy run of length T is taken for a clean one of length S T:
harm = B(S T) - B(T), with the baseline's loss

    B(T) - B(2000) = cubic(T / 2000) up to 2,000, beta ((T / 2000)^-c - 1) from there on,

beta and c such that the slopes meet at 2,000 and the loss at 5,000 is that of `decisive`. At a rate above 1e-3,
and under Lion, all is multiplied by b, by what the harm is at 4e-3 and 2,000 iterations (tuning). All are of
config/cpu.py's size; records that come later do not enter.
"""

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from analysis import records, statistics, theory
from analysis.shares import arm_shares
from config import ROOT, Config, UserError, run_script
from config.study import read_study

KNOWN = {"table1_shakespeare": range(1, 9), "sensitivity": range(1, 4)}  # and their seeds
LENGTH, SYMBOLS = 2000, 65


class Law:
    """harm(share, length). drop: B(2000) - B(5000). missed: root mean square and largest error of the arms,
    each predicted by the others."""

    def __init__(self, shares, harms, drop):
        x, y = powers(shares), np.asarray(harms)
        others = [np.arange(len(y)) != i for i in range(len(y))]
        errors = np.array([x[i] @ solved(x[rest], y[rest]) - y[i] for i, rest in enumerate(others)])
        self.cubic = solved(x, y)
        self.missed = float(np.sqrt(np.mean(errors**2))), float(np.abs(errors).max())
        slope = self.cubic[-1]
        self.c = brentq(lambda c: slope / c * (1 - 2.5**-c) - drop, 0.01, 10)
        self.beta = slope / self.c

    def harm(self, share, length=LENGTH):
        return self.loss(share * length) - self.loss(length)

    def loss(self, length):
        """B(length) - B(2000)."""
        part = length / LENGTH
        return float(powers(part) @ self.cubic if part <= 1 else self.beta * (part**-self.c - 1))


def powers(shares):
    """(..., 3): the third, second and first power of -ln S."""
    return (-np.log(np.asarray(shares, dtype=float)))[..., None] ** np.array([3, 2, 1])


def solved(x, y):
    return np.linalg.lstsq(x, y, rcond=None)[0]


def known_law(found):
    """(Law, b) of the records."""
    found = found.of(size="cpu")
    shares = pd.concat(arm_shares(found.of(study=name, seed=[*seeds])) for name, seeds in KNOWN.items())
    short, long = (
        found.of(study=name, arm="baseline", seed=[*range(1, 7)]).runs.best_val_loss.mean()
        for name in ("table1_shakespeare", "decisive")
    )
    law = Law(shares.share, shares.harm, short - long)
    tuning = found.of(study="tuning", seed=[101, 102]).runs.groupby("arm")
    tuned = tuning.agg({"best_val_loss": "mean", "config": "first"})
    cells = [tuned.loc[f"{kind}_lr4e-3"] for kind in ("noise_0.1_0.99", "noise_0.01_0.95")]
    harm = sum(cell.best_val_loss - tuned.best_val_loss["baseline_lr4e-3"] for cell in cells)
    return law, harm / sum(law.harm(share_of(cell.config)) for cell in cells)


def share_of(config):
    """S by gradients of norm 1."""
    if not isinstance(config, Config):
        raise UserError("predictions are of runs of train.py, of language models")
    v = 1 / theory.parameters(config, SYMBOLS)
    if config.optimizer == "sgd":  # which has no v for the noise to go into
        return 1.0
    return theory.lion_share(config, v) if config.optimizer == "lion" else theory.share_of(config, v)


def predicted(configs, law, b):
    """{arm: (S, the harm by S alone, the harm by length and rate too)} of {arm: config}, those with noise."""
    rows = {}
    for arm, config in configs.items():
        if not config.noisy:
            continue
        share = share_of(config)
        scale = b if config.learning_rate > 1e-3 or config.optimizer == "lion" else 1.0
        rows[arm] = share, law.harm(share), scale * law.harm(share, config.max_iters)
    return rows


def beside_found(found, study, size):
    """A frame, a row for each arm with noise of a study that was run: share (S), predicted (by length and rate
    too), and of the best val loss n, mean (found), half_width and verdict, as statistics.compare has them."""
    runs = found.of(study=study, size=size).runs
    rows = predicted(dict(zip(runs.arm, runs.config)), *known_law(found))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["share", "alone", "predicted"])
    compared = statistics.compare(found, study, size, "best_val_loss")
    return table.drop(columns="alone").join(compared[["n", "mean", "half_width", "verdict"]], how="inner")


def by_share_alone(found, study, size):
    """`arm_shares` of a study, and a column predicted: the cubic at the arm's own S."""
    law, _ = known_law(found)
    table = arm_shares(found.of(study=study, size=size))
    return table.assign(predicted=[law.harm(share) for share in table.share])


def main(argv):
    if not argv:
        raise UserError("which study? python -m analysis.predict config/study/law.py config/cpu.py")
    study = read_study(argv[0], argv[1:])
    law, b = known_law(records.read([ROOT / "results"]))
    rms, most = law.missed
    print(f"cubic {law.cubic.round(4)}; an arm left out is missed by {rms:.4f} rms, {most:.4f} at most")
    print(f"beta = {law.beta:.3f}, c = {law.c:.3f}, b = {b:.2f}\n")
    print("| arm | S | harm by S alone | by length and rate too |\n|---|---:|---:|---:|")
    configs = {run.arm: run.config for run in study.runs}
    for arm, (share, alone, scaled) in predicted(configs, law, b).items():
        print(f"| `{arm}` | {share:.3f} | {alone:+.4f} | {scaled:+.4f} |")
    return 0


if __name__ == "__main__":
    run_script(main, __doc__)
