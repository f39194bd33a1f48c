"""The noise's harm as a power law of S and of a run's length, size and learning rate, and what it predicts.

    python -m analysis.power_law config/study/full_size.py

    ln harm = a + b ln(-ln S) + c ln(T / 2000) + d ln(N / 804,096) + e ln(lr / 1e-3)

T is the number of iterations, N that of parameters, lr the peak of the learning rate, S the share of it that
the noise leaves, by gradients of norm 1. It is fitted by least squares to the arms of STUDIES with absolute
exponential noise under AdamW: of two seeds or more, at rates up to BEST_RATE, above which the law does not
hold, and where -ln S is LEAST or more. An arm that does no harm has no logarithm and is left out; there is
one. The form was chosen when these runs had been seen: it describes them. Records of other studies, and of
runs at another size than config/cpu.py's and what `law` varies of it, do not enter.
"""

import functools
import re

import numpy as np
import pandas as pd
from scipy import stats

from analysis import records, theory
from analysis.predict import SYMBOLS, share_of, solved
from analysis.shares import is_absolute
from config import ROOT, UserError, run_script
from config.study import read_study

STUDIES = ("table1_shakespeare", "sensitivity", "decisive", "tuning", "law")
BEST_RATE, LEAST = 4e-3, 0.003
TERMS = ("1", "-ln S", "T / 2000", "N / 804,096", "lr / 1e-3")
PLACE = ["length", "width", "rate"]


class PowerLaw:
    """coefficients: of TERMS. table: the arms that it is fitted to, as `harms` has them. places: the number of
    each arm's PLACE."""

    def __init__(self, table):
        self.table = table
        self.x, self.y = np.array(table.terms.tolist()), np.log(table.harm.to_numpy(dtype=float))
        self.places = table.groupby(PLACE).ngroup().to_numpy()
        self.coefficients = solved(self.x, self.y)

    def errors(self):
        """Those of ln harm, of each arm."""
        return self.y - self.x @ self.coefficients

    def errors_without(self, left_out):
        """The errors of ln harm of some arms, a mask, where the law is fitted to the others."""
        left_out = np.asarray(left_out)
        others = solved(self.x[~left_out], self.y[~left_out])
        return self.y[left_out] - self.x[left_out] @ others

    @functools.cached_property
    def missed_elsewhere(self):
        """The root mean square error where arms of one length, width and rate are predicted by the others."""
        return rms(np.concatenate([self.errors_without(self.places == place) for place in {*self.places}]))

    def harm(self, config):
        """(predicted, low, high) of a run's config, nats. The 95 % t interval goes by missed_elsewhere, with as
        many degrees of freedom as there are places beyond TERMS. A run far beyond all places may be missed by
        more."""
        free = len({*self.places}) - len(TERMS)
        reach = stats.t.ppf(0.975, free) * self.missed_elsewhere
        return tuple(np.exp(terms(config) @ self.coefficients + np.array([0, -reach, reach])))


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def terms(config):
    """The logarithms of TERMS; the first is 1."""
    size = theory.parameters(config, SYMBOLS) / 804_096
    ratios = (-np.log(share_of(config)), config.max_iters / 2000, size, config.learning_rate / 1e-3)
    return np.array([1.0, *np.log(ratios)])


def fitted(found, loss="best_val_loss"):
    """The PowerLaw of the records, of a loss."""
    return PowerLaw(harms(found, loss))


def forecast():
    """What results/forecast_2.md expects of the best val loss: (middle, low, high), nats, of the strongest cell
    and of the mildest."""
    page = (ROOT / "results" / "forecast_2.md").read_text("utf-8")
    (row,) = re.findall(r"(?m)^\| best validation loss \| (.*\(.*\).*\(.*\)) \|$", page.partition("## Why")[0])
    numbers = [float(each.replace("−", "-")) for each in re.findall(r"[+−]?\d[.\d]*", row)]
    return numbers[:3], numbers[3:]


def harms(found, loss):
    """A frame, a row an arm that the law is fitted to: study, arm, PLACE, terms, n, harm. This is its loss
    minus that of the arm that is the same without noise, the mean over n common seeds."""
    rows = []
    for study in STUDIES:
        arms = found.of(study=study, size="cpu").runs.groupby(["setting", "arm"], sort=False)
        arms = [(*key, runs.config.iloc[0], records.losses(runs, loss)) for key, runs in arms]
        for setting, name, config, ours in arms:
            for its_setting, _, reference, theirs in arms:
                if setting == its_setting and holds_for(config, reference):
                    place = config.max_iters, config.n_embd, config.learning_rate
                    each = (ours - theirs).dropna()
                    rows.append([study, name, *place, terms(config), len(each), each.mean()])
    table = pd.DataFrame(rows, columns=["study", "arm", *PLACE, "terms", "n", "harm"])
    return table[(table.n > 1) & (table.harm > 0)]


def holds_for(config, reference):
    """Whether the law is of a run, and of its difference to another."""
    alike = is_absolute(config, reference) and config.noise_schedule == "exponential"
    return alike and config.learning_rate <= BEST_RATE and -np.log(share_of(config)) >= LEAST


def main(argv):
    if not argv:
        raise UserError("which study? python -m analysis.power_law config/study/law.py config/cpu.py")
    study, found = read_study(argv[0], argv[1:]), records.read([ROOT / "results"])
    configs = {run.arm: run.config for run in study.runs}
    pairs = {arm: study.versus.get(arm, study.baseline) for arm in configs}
    arms = [arm for arm, other in pairs.items() if holds_for(configs[arm], configs[other])]
    for loss in ("best_val_loss", "final_train_loss"):
        law = fitted(found, loss)
        missed, elsewhere = rms(law.errors()), law.missed_elsewhere
        print(f"{loss}, {len(law.y)} arms: ln harm missed by {missed:.3f} (rms), by {elsewhere:.3f} left out\n")
        print("| " + " | ".join(TERMS) + " |\n|" + "---:|" * len(TERMS))
        print("| " + " | ".join(f"{b:+.3f}" for b in law.coefficients) + " |\n")
        print("| arm | S | harm | 95 % |\n|---|---:|---:|---:|")
        for arm in arms:
            harm, low, high = law.harm(configs[arm])
            print(f"| `{arm}` | {share_of(configs[arm]):.3f} | {harm:+.4f} | {low:+.4f} to {high:+.4f} |")
        print()
    return 0


if __name__ == "__main__":
    run_script(main, __doc__)
