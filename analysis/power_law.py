"""The noise's harm as a power law of S and of a run's length, size and learning rate, and what it predicts.

    python -m analysis.power_law config/study/full_size.py

    ln harm = a + b ln(-ln S) + c ln(T / 2000) + d ln(N / 804,096) + e ln(lr / 1e-3)

T is the number of iterations, N that of parameters, lr the peak of the learning rate, S the share of it that
the noise leaves, by gradients of norm 1. It is fitted by least squares to the arms of STUDIES with absolute
noise, but for rates above BEST_RATE, where no harm is seen, and for -ln S under LEAST. The form was chosen when
these runs had been seen: it describes them. Records of other studies do not enter.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis import records, theory
from analysis.predict import SYMBOLS, share_of, solved
from analysis.shares import is_absolute
from config import ROOT, run_script
from config.study import read_study

STUDIES = ("table1_shakespeare", "sensitivity", "decisive", "tuning", "law")
BEST_RATE, LEAST = 4e-3, 0.003
TERMS = ("1", "-ln S", "T / 2000", "N / 804,096", "lr / 1e-3")


@dataclass(frozen=True)
class PowerLaw:
    """coefficients: of TERMS; covariance: theirs; sd: of the error of ln harm; left_out: its root mean square
    where all arms of one length, size and rate are predicted by the others; arms: how many there are."""

    coefficients: np.ndarray
    covariance: np.ndarray
    sd: float
    left_out: float
    arms: int

    def harm(self, config):
        """(predicted, low, high) of a run's config, nats. The interval is to hold the harm 19 times in 20 at a
        length, size and rate that the fit has not seen, as near to the others as they are to each other."""
        x = terms(config)
        sd = np.sqrt(self.left_out**2 + x @ self.covariance @ x)
        reach = stats.t.ppf(0.975, self.arms - len(TERMS)) * sd
        return tuple(np.exp(x @ self.coefficients + np.array([0, -reach, reach])))


def terms(config):
    """The logarithms of TERMS; the first is 1."""
    size = theory.parameters(config, SYMBOLS) / 804_096
    ratios = (-np.log(share_of(config)), config.max_iters / 2000, size, config.learning_rate / 1e-3)
    return np.array([1.0, *np.log(ratios)])


def fitted(found, loss="best_val_loss"):
    """The PowerLaw of the records, of a loss."""
    table = harms(found, loss)
    x, y = np.array(table.terms.tolist()), np.log(table.harm.to_numpy(dtype=float))
    places = table.groupby("place").ngroup().to_numpy()
    others = [(places == place, places != place) for place in {*places}]
    left_out = np.concatenate([y[here] - x[here] @ solved(x[rest], y[rest]) for here, rest in others])
    coefficients = solved(x, y)
    sd = np.sqrt(np.sum((y - x @ coefficients) ** 2) / (len(y) - len(TERMS)))
    covariance = sd**2 * np.linalg.inv(x.T @ x)
    return PowerLaw(coefficients, covariance, float(sd), float(np.sqrt(np.mean(left_out**2))), len(y))


def harms(found, loss):
    """A frame, a row an arm that the law is fitted to: study, arm, place (length, width, rate), terms, and
    harm: its loss minus that of the arm that is the same without noise, the mean over common seeds."""
    rows = []
    for study in STUDIES:
        runs = found.of(study=study).runs
        arms = [
            (*key, arm.config.iloc[0], arm.set_index("seed")[loss])
            for key, arm in runs.groupby(["setting", "arm"])
        ]
        for setting, name, config, ours in arms:
            for other_setting, _, other, theirs in arms:
                alike = setting == other_setting and is_absolute(config, other)
                if alike and config.learning_rate <= BEST_RATE and share_of(config) < np.exp(-LEAST):
                    place = config.max_iters, config.n_embd, config.learning_rate
                    rows.append([study, name, place, terms(config), (ours - theirs).mean()])
    table = pd.DataFrame(rows, columns=["study", "arm", "place", "terms", "harm"])
    return table[table.harm > 0]


def main(argv):
    if not argv or "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    study, found = read_study(argv[0], argv[1:]), records.read([ROOT / "results"])
    configs = {run.arm: run.config for run in study.runs if run.config.noisy}
    for loss in ("best_val_loss", "final_train_loss"):
        law = fitted(found, loss)
        errors = np.sqrt(np.diag(law.covariance))
        print(f"{loss}: {law.arms} arms; sd of ln harm {law.sd:.3f}, {law.left_out:.3f} where left out\n")
        print("| " + " | ".join(TERMS) + " |\n|" + "---:|" * len(TERMS))
        print("| " + " | ".join(f"{b:+.3f} ± {se:.3f}" for b, se in zip(law.coefficients, errors)) + " |\n")
        print("| arm | S | harm | 95 % |\n|---|---:|---:|---:|")
        for arm, config in configs.items():
            harm, low, high = law.harm(config)
            print(f"| `{arm}` | {share_of(config):.3f} | {harm:+.4f} | {low:+.4f} to {high:+.4f} |")
        print()
    return 0


if __name__ == "__main__":
    run_script(main)
