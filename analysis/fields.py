"""The fields of the pages: numbers and verdicts of the records, as they are printed. No torch.

    study        the name of a study, or name/size where it was run in several sizes
    arm          one of its arms; against: another of its arms in the place of its reference
    loss         a key of LOSSES, or a column of the runs

A study, an arm, a loss or an option that is not there is a UserError of one line. No field gives more words
than a verdict.
"""

import contextlib
import functools
import math

import numpy as np
import pandas as pd
from scipy import integrate, stats

from analysis import power_law, predict, records, statistics, tables, theory
from analysis.shares import arm_shares
from analysis.tables import PAPER, probability, with_interval
from config import ROOT, UserError, counted, did_you_mean, load
from config.study import read_study

LOSSES = {
    "minibatch": "minibatch_loss_last100",
    "train": "final_train_loss",
    "val": "best_val_loss",
    "final": "final_val_loss",
    "test": "best_weights_test_loss",
    "score": "final_val_score",
    "best_score": "best_val_score",
}


def percent(value):
    return "–" if math.isnan(value) else f"{round(100 * value)} %"


def averaged(differences):
    """Some pairs' differences as `Fields.diff` has them."""
    return with_interval(*statistics.interval(differences), "+") + f" (n = {len(differences)})"


def printed(value):
    """A number of a config or a count, as one reads it."""
    return f"{value:,}" if type(value) is int else f"{value:g}" if isinstance(value, float) else str(value)


class Fields:
    """Every public method is a field."""

    def __init__(self, found):
        self._records, self._table = found, records.arms(found)
        self._of, self._comparisons = functools.cache(self._of), functools.cache(self._comparisons)
        self._power_law = functools.cache(self._power_law)

    # What is there.

    def _key(self, study):
        """(study, size); UserError unless it is one."""
        keys = [key for key in self._records.studies if study in (key[0], "/".join(key))]
        if len(keys) > 1:
            raise UserError(f"{study} was run in {len(keys)} sizes: write {' or '.join(map('/'.join, keys))}")
        if not keys:
            hint = did_you_mean(study, [name for name, _ in self._records.studies])
            raise UserError(f"the records have no study {study!r}{hint}")
        return keys[0]

    def _of(self, study, arm=None):
        """The Records of a study, or of one of its arms; UserError where there is none."""
        name, size = self._key(study)
        found = self._records.of(study=name, size=size)
        if arm is None:
            return found
        if arm not in set(found.runs.arm):
            raise UserError(f"the study {study} has no arm {arm!r}{did_you_mean(arm, set(found.runs.arm))}")
        return found.of(arm=arm)

    def _losses(self, study, arm, loss):
        """{seed: loss} as a Series."""
        found = records.losses(self._of(study, arm).runs, LOSSES.get(loss, loss))
        if found.empty:
            raise UserError(f"no run of {study}, {arm} has a loss {loss!r}: one of {', '.join(LOSSES)}")
        return found

    def _comparisons(self, study, loss="val"):
        """statistics.compare's frame."""
        return statistics.compare(self._records, *self._key(study), LOSSES.get(loss, loss))

    def _row(self, study, arm, loss="val"):
        found = self._comparisons(study, loss)
        if arm not in found.index:
            self._losses(study, arm, loss)
            raise UserError(f"the study {study} compares {arm!r} with nothing")
        return found.loc[arm]

    def _both(self, study, arm, loss, against=None):
        """An arm's losses and its reference's, or another arm's, of the seeds that both have."""
        against = against or self._row(study, arm, loss).reference
        ours, reference = (self._losses(study, each, loss) for each in (arm, against))
        common = ours.index.intersection(reference.index)
        return ours[common], reference[common]

    # A comparison.

    def diff(self, study, arm, against=None, loss="val", half=True, n=True):
        """An arm's loss minus its reference's, "+0.2412 ± 0.0092 (n = 6)": mean over pairs of a seed, half of
        its 95 % t interval. With `against` it is outside the family of the verdicts."""
        if against is None:
            row = self._row(study, arm, loss)
        else:
            row = statistics.difference(self._losses(study, arm, loss), self._losses(study, against, loss))
        if not row["n"]:
            return "–"
        size = with_interval(row["mean"], row["half_width"] if half else math.nan, "+")
        return size + f" (n = {row['n']})" * n

    def diff_at(self, study, arm, at):
        """`diff` of the val loss at an evaluation, in place of the best; outside the family of the verdicts."""
        curves = (
            self._of(study, one).curve("eval", "val_loss") for one in (arm, self._row(study, arm).reference)
        )
        found = [curve.reindex([at]).loc[at].dropna() for curve in curves]
        row = statistics.difference(*found)
        if not row["n"]:
            raise UserError(f"{study}, {arm} has no evaluation at iteration {at}")
        return with_interval(row["mean"], row["half_width"], "+")

    def mean_diff(self, study, *arms, loss="val"):
        """The mean over arms of what `diff` gives of each, of the seeds that all of them have; outside the
        family of the verdicts."""
        references = [self._row(study, arm, loss).reference for arm in arms]
        ours, theirs = (
            pd.DataFrame({arm: self._losses(study, name, loss) for arm, name in zip(arms, names)})
            for names in (arms, references)
        )
        return averaged((ours - theirs).dropna().mean(axis=1))

    def pooled_diff(self, *pairs, loss="val"):
        """`diff` over some (study, arm), or (study, arm, against), that have no seed in common; outside the
        families of the verdicts."""
        each = [
            ours - reference
            for ours, reference in (self._both(study, arm, loss, *against) for study, arm, *against in pairs)
        ]
        found = pd.concat(each)
        if found.index.has_duplicates:
            raise UserError("a pooled difference is of studies that have no seed in common")
        return averaged(found)

    def unpaired(self, first, second):
        """`diff` of one (study, arm) minus that of another on other seeds, with Welch's 95 % interval; outside
        the families of the verdicts."""
        pairs = (self._both(*each, "val") for each in (first, second))
        row = statistics.difference(*(ours - reference for ours, reference in pairs))
        if row["paired"] or not row["n"]:
            raise UserError("an unpaired difference is of studies of two seeds or more, none in common")
        return with_interval(row["mean"], row["half_width"], "+")

    def farthest(self, study, arm, other, its):
        """The most that the best val loss of a seed differs between an arm and that of another study."""
        ours, theirs = self._losses(study, arm, "val"), self._losses(other, its, "val")
        return f"{(ours - theirs).abs().max():.4f}"

    def harm_ratio(self, study, arm, other, its):
        """The harm of an arm over that of an arm of another study, means of the best val loss: "1.3"."""
        return f"{self._row(study, arm)['mean'] / self._row(other, its)['mean']:.1f}"

    def relative(self, study, arm, loss="val"):
        """`diff` in per cent of the reference's mean, Fieller's 95 % interval: "-31 % to 19 %"."""
        ours, reference = self._both(study, arm, loss)
        found = statistics.fraction_of_effect(ours - reference, reference, 0 * reference)
        return " to ".join(map(percent, found[1:])) if found else "–"

    def verdict(self, study, arm, loss="val"):
        return str(self._row(study, arm, loss).verdict)

    def p(self, study, arm, loss="val"):
        """Holm's."""
        return probability(self._row(study, arm, loss).p_holm)

    def sign_flips(self, study, arm):
        """p of the sign-flip test, and its least: "0.1250, where 5 pairs give 0.0625 at least"."""
        row = self._row(study, arm)
        return f"{probability(row.p_flip)}, where {row.n} pairs give {probability(row.flip_floor)} at least"

    def mde(self, study, arm, loss="val"):
        """The minimum detectable effect."""
        found = self._row(study, arm, loss).mde
        return "–" if math.isnan(found) else f"{found:.4f}"

    def equivalence(self, study, arm, loss="val", cells=1):
        """p of two one-sided t-tests that an arm is within the paper's best gain of its reference; by
        Bonferroni's adjustment for as many cells."""
        ours, reference = self._both(study, arm, loss)
        p = statistics.equivalence_p(ours - reference, -paper_differences().min())
        return probability(float(np.minimum(1, cells * p)))

    def reference(self, study, arm):
        return self._row(study, arm).reference

    def count(self, study, verdict, loss="val"):
        """How many of a study's comparisons have this verdict."""
        if verdict not in list(statistics.Verdict):
            raise UserError(f"there is no verdict {verdict!r}{did_you_mean(verdict, statistics.Verdict)}")
        return int((self._comparisons(study, loss).verdict == verdict).sum())

    def fraction(self, study, arm, at=None):
        """How much of its noise's effect on the val loss an arm has, "107 % (104 % to 111 %)", with Fieller's
        95 % interval; at: the evaluation at that iteration, in place of the best."""
        self._of(study, arm)
        three = statistics.controls(self._records, *self._key(study)).get(arm)
        if at is None:
            found = three and statistics.fraction(three, LOSSES["val"])
        else:
            found = statistics.fractions_by_iteration(three).T.get(at)
        if found is None:
            raise UserError(f"{study}, {arm}: no fraction of an effect{f' at iteration {at}' if at else ''}")
        return "{} ({} to {})".format(*map(percent, found))

    def part(self, study, *arms, of, against=None):
        """How much of the harm of an arm, `of`, others have in all, "57 % (55 % to 59 %)", each against the
        baseline or the arm `against`, with Fieller's 95 % interval."""
        baseline = self._losses(study, against or self._row(study, of).reference, "val")
        ours = sum(self._losses(study, arm, "val") - baseline for arm in arms) + baseline
        found = statistics.fraction_of_effect(ours.dropna(), self._losses(study, of, "val"), baseline)
        return "{} ({} to {})".format(*map(percent, found)) if found else "–"

    # Arms and studies.

    def arms(self, study):
        """The names of the arms that were run, by setting, in each in the study's order."""
        name, size = self._key(study)
        return self._table[(self._table.study == name) & (self._table["size"] == size)].arm.to_list()

    def option(self, study, arm, name):
        """An option of an arm's config."""
        options = vars(self._of(study, arm).runs.config.iloc[0])
        if name not in options:
            raise UserError(f"there is no option {name!r}{did_you_mean(name, options)}")
        return printed(options[name])

    def n(self, study, arm, status="finished"):
        """How many of an arm's runs finished, or diverged, or exploded."""
        if status not in (words := ("finished", "diverged", "exploded")):
            raise UserError(f"no run is {status!r}: they are {', '.join(words)}")
        runs = self._of(study, arm).runs
        return int(runs.exploded.sum() if status == "exploded" else (runs.status == status).sum())

    def mean(self, study, arm, loss="val"):
        """Of an arm's losses, with half of its 95 % t interval."""
        return with_interval(*statistics.interval(self._losses(study, arm, loss)))

    def spread(self, study, arm, loss="val"):
        """Of an arm's losses over its seeds."""
        return f"{self._losses(study, arm, loss).std():.4f}"

    def spread_p(self, study, arm, loss="val"):
        """p that an arm's losses and its reference's have one sd."""
        return probability(statistics.spread_p(*self._both(study, arm, loss)))

    def pooled_spread(self, *pairs):
        """Of some (study, arm): the sd over seeds of their references and of them, pooled, "0.0091 and 0.0059
        (p = 0.01)"."""
        both = [self._both(*pair, "val") for pair in pairs]
        counts = [len(ours) for ours, _ in both]
        if min(counts, default=0) < 2 or max(counts) < 4 or any(x.std() == 0 for pair in both for x in pair):
            raise UserError("a pooled spread is of two seeds an arm or more that differ, and of four once")
        ours, references, p = statistics.pooled_spread(both)
        return f"{references:.4f} and {ours:.4f} (p = {probability(p)})"

    def parameters(self, study, arm):
        return f"{self._of(study, arm).runs.parameters.iloc[0] / 1e6:.2f} M"

    def planned(self, study):
        """How many seeds an arm of the study is to have."""
        return len(self._records.studies[self._key(study)]["seeds"])

    def noise_ratio(self, study, arm, below=None):
        """How long the injected noise is at the first step, over the mini-batch gradient's own; with `below`,
        the first measured iteration at which this is under it."""
        ratio = self._diagnosed(study, arm, "noise_ratio")
        return printed(int(ratio[ratio < below].index[0])) if below else f"{ratio.iloc[0]:.0f}"

    def noise_sum(self, study, arm, against):
        """The sum of an arm's sigma_t^2, in parts of that of another arm."""
        return percent(self._squares(study, arm) / self._squares(study, against))

    def _squares(self, study, arm):
        here = self._of(study, arm)
        steps, logged = here.runs.max_iters.iloc[0], here.curve("train", "sigma")
        each = [one.dropna() for _, one in logged.items()]
        sigmas = [theory.sigma_between(one.index, one, steps) for one in each]
        return np.mean([np.sum(sigma**2) for sigma in sigmas])

    def steps(self, study, arm, against):
        """The RMS of an arm's updates over that of another's signal in them, the lowest and the highest of the
        measurements; the first, under a moment of one gradient, aside."""
        ours, theirs = (self._diagnosed(study, one, "signal_rms") for one in (arm, against))
        ratio = (ours / theirs).iloc[1:]
        return f"{percent(ratio.min())} to {percent(ratio.max())}"

    def _diagnosed(self, study, arm, name):
        return self._of(study, arm).curve("diagnosis", name).mean(axis=1)

    def overfitting(self, study, arm):
        """The final val loss over the best one, with half of its 95 % t interval."""
        rise = self._losses(study, arm, "final") - self._losses(study, arm, "val")
        return with_interval(*statistics.interval(rise))

    def families(self):
        """How many studies give a verdict."""
        judging = self._table[self._table.purpose == "comparison"].groupby(["study", "size"]).groups
        verdicts = {study: self._comparisons(f"{study}/{size}").verdict for study, size in judging}
        none = (statistics.Verdict.INCOMPLETE, statistics.Verdict.NONE)
        return sum(not found.isin(none).all() for found in verdicts.values())

    def studies(self):
        """Their names, with the size where that is needed; those that judge first."""
        found = self._records.studies
        keys = sorted(found, key=lambda key: (found[key]["purpose"] == "tuning", key))
        names = [name for name, _ in keys]
        return ["/".join(key) if names.count(key[0]) > 1 else key[0] for key in keys]

    def title(self, study):
        return self._records.studies[self._key(study)]["title"]

    def described(self, study):
        """What the runs are of, and under what they ran."""
        runs = self._of(study).runs
        through = np.where(runs.through_float32.eq(True), " through float32", "")
        revisions = runs.revision.str.replace(r"^(\w{10})\w+", r"\1", regex=True)
        runs = runs.astype(dict.fromkeys(("machine", "torch", "revision", "began"), "string"))
        columns = [runs.corpus + ", " + runs.description, runs.machine + ", " + runs.dtype + through]
        columns += ["PyTorch " + runs.torch, "revision " + revisions, runs.began.str[:10]]
        return "; ".join(" and ".join(sorted(set(column.dropna()))) for column in columns)

    def command(self, study):
        """What trains its runs again, where the corpus is prepared as it says."""
        name, size = self._key(study)
        parts = size.split("+") if size != "full" else []
        files = {path.stem: path.relative_to(ROOT).as_posix() for path in (ROOT / "config").rglob("[!_]*.py")}
        files |= {path.stem: f"config/{path.name}" for path in (ROOT / "config").glob("*.py")}
        words = [f"--{part}" if "=" in part else files.get(part, f"{part}.py") for part in parts]
        planned, there = self._records.studies[name, size]["arms"], self.arms(study)
        file = f"config/study/{name}.py"
        overlays, keys = ([word for word in words if word.startswith("-") == key] for key in (False, True))
        with contextlib.suppress(UserError):  # of a study of the user's own, or an overlay
            words += self._cadence(study, read_study(file, overlays, keys))
        words += [f"--arms={','.join(there)}"] if len(there) < len(planned) else []
        return " ".join(["python sweep.py", file if (ROOT / file).is_file() else f"{name}.py", *words])

    def _cadence(self, study, planned):
        """["--eval_interval=N"] where the runs had another than the study as planned, which no folder names."""
        planned = {run.arm: run.config.eval_interval for run in planned.runs}
        runs = self._of(study).runs
        here = {arm: config.eval_interval for arm, config in zip(runs.arm, runs.config)}
        others = any(every != planned.get(arm, every) for arm, every in here.items())
        return [f"--eval_interval={min(here.values())}"] if others and len({*here.values()}) == 1 else []

    def tables(self, study):
        """(title, rows as Markdown) of its comparisons, losses and sharpness."""
        key, here = self._key(study), self._of(study)
        judged = self._records.studies[key]["purpose"] != "tuning"
        for table in tables.comparison_tables(self._records, *key) if judged else ():
            title = "".join(table.title.rpartition("the reference")[:2])
            yield title, tables.markdown_cells(table.cells)
        for _, part in here.runs.groupby("setting", sort=False):
            part = here.of(setting=part.setting.iloc[0])
            losses, sharpness = tables.loss_table(part), tables.sharpness_table(part)
            yield f"losses; {losses.title}", tables.markdown_cells(losses.cells)
            if sharpness:
                yield sharpness.title, tables.markdown_cells(sharpness.cells)

    def runs(self, study=None):
        """How many runs a study has, or all studies."""
        return len(self._runs(study))

    def counted_runs(self, study):
        return counted(self.runs(study), "run")

    def hours(self, study=None):
        return f"{self._runs(study).reindex(columns=['seconds']).seconds.sum() / 3600:.1f}"

    def _runs(self, study):
        runs = self._records.runs
        return runs[runs.study != ""] if study is None else self._of(study).runs

    # The paper's own numbers, and what chance gives.

    def paper(self):
        """Rows of cells: corpus, then val and train loss without the noise, with it, and the difference."""
        for corpus, rows in PAPER.items():
            (train, val), (noisy_train, noisy_val) = rows["baseline"], rows["noise"]
            cells = [f"{val:.4f}", f"{noisy_val:.4f}", f"{noisy_val - val:+.4f}"]
            yield [corpus, *cells, f"{train:.4f}", f"{noisy_train:.4f}", f"{noisy_train - train:+.4f}"]

    def paper_best(self):
        return f"{paper_differences().min():+.4f}"

    def chance(self, cells, sd):
        return f"{chance_of_gain(-paper_differences().min(), cells, sd):.2f}"

    # What theory.py says.

    def half_time(self, study, arm):
        """The iteration from which steps have half of their size or more, predicted, v from the arm's runs."""
        here = self._of(study, arm)
        config, norms = here.runs.config.iloc[0], here.curve("train", "grad_norm").stack()
        v = theory.mean_square(norms, config.grad_clip, here.runs.parameters.iloc[0])
        return printed(theory.half_time(theory.sigmas(config), v, config.beta2))

    def share(self, study, arm):
        """S, the share of the learning rate that an arm's noise leaves."""
        found = arm_shares(self._of(study)).set_index("arm").share
        if arm not in found.index:
            raise UserError(f"{study}, {arm}: no share but of absolute noise alone, under a second moment")
        return f"{found[arm]:.2f}"

    def predictions(self, study):
        """Of a study of docs/hypotheses.md, a row of cells an arm with noise: its name, S, the harm predicted,
        the harm found, the verdict."""
        for arm, row in predict.beside_found(self._records, *self._key(study)).iterrows():
            cells = [f"`{arm}`", f"{row.share:.3f}", f"{row.predicted:+.4f}"]
            yield [*cells, f"{with_interval(row['mean'], row.half_width, '+')} (n = {row.n})", str(row.verdict)]

    def by_share(self, study):
        """A row of cells an arm with absolute noise: its name, S of its runs, the harm that the cubic of
        docs/hypotheses.md has at that S, and the harm found."""
        for row in predict.by_share_alone(self._records, *self._key(study)).itertuples():
            yield [
                row.arm,
                f"{row.share:.3f}",
                f"{row.predicted:+.4f}",
                with_interval(row.harm, row.half_width, "+"),
            ]

    def _power_law(self):
        return power_law.fitted(self._records)

    def power(self, term):
        """The exponent of a term of the power law of the harm; of "1" the factor in front."""
        value = self._power_law().coefficients[power_law.TERMS.index(term)]
        return f"{np.exp(value):.3f}" if term == "1" else f"{value:.2f}"

    def power_arms(self):
        """How many arms it is fitted to."""
        return len(self._power_law().y)

    def power_missed(self, how="fitted", **place):
        """The factor by which it misses an arm, root mean square, or the "worst" one; "elsewhere", where all of
        a length, width and rate are left out of the fit; with length=5000, where all of that length are."""
        law = self._power_law()
        if place:
            ((name, value),) = place.items()
            missed = power_law.rms(law.errors_without(law.table[name] == value))
        else:
            errors = law.errors()
            all_of_it = {"fitted": power_law.rms(errors), "worst": abs(errors).max()}
            missed = {**all_of_it, "elsewhere": law.missed_elsewhere}[how]
        return f"{np.exp(missed):.1f}"

    def power_harm(self, *argv):
        """What it predicts for a run of train.py: "+0.020 (+0.008 to +0.055)"."""
        harm, low, high = self._power_law().harm(load([*map(str, argv)], say=lambda _: None))
        return f"{harm:+.3f} ({low:+.3f} to {high:+.3f})"

    def spearman(self, *studies, by="share"):
        """The rank correlation with the harm of S, or of the sum of sigma_t^2 (by "squares"), over the arms of
        some studies, and of how many arms."""
        found = pd.concat([arm_shares(self._of(study)) for study in studies])
        return f"{stats.spearmanr(found[by], found.harm).statistic:.3f} ({len(found)} arms)"

    def measured_half_time(self, study, arm, part=False):
        """`half_time` as the diagnosis measured it, the mean over runs; part: in parts of the iterations."""
        here = self._of(study, arm)
        found = list(measured_half_times(here.curve("diagnosis", "preconditioner")))
        if not found:
            raise UserError(f"{study}, {arm}: no half time was measured")
        mean = np.mean(found)
        return percent(mean / here.runs.max_iters.iloc[0]) if part else f"{mean:,.0f}"

    def full_size(self, what, norm, config="config/shakespeare_noise.py"):
        """Of the paper's model and a gradient of this norm: half_time, part (of the run) or share (S)."""
        run = load([str(ROOT / config)])
        v = norm**2 / theory.parameters(run, predict.SYMBOLS)
        if what == "share":
            return f"{theory.share_of(run, v):.2f}"
        half = theory.half_time(theory.sigmas(run), v, run.beta2)
        return printed(half) if what == "half_time" else percent(half / run.max_iters)


def paper_differences():
    """Of its val losses, with the noise minus without it."""
    return np.array([rows["noise"][1] - rows["baseline"][1] for rows in PAPER.values()])


def chance_of_gain(gain, cells, sd):
    """The probability that the lowest of some cells is lower by `gain` or more than one baseline, where all are
    of one distribution, N(m, sd^2): 1 - E (1 - Phi((b - gain) / sd))^cells over the baseline's b."""
    gain = gain / sd
    none = integrate.quad(lambda b: stats.norm.pdf(b) * stats.norm.sf(b - gain) ** cells, -9, 9)[0]
    return 1 - none


def measured_half_times(curve):
    """The iteration from which each run's mean over elements of sqrt(clean v / v) stays at a half or more,
    linear between measurements; nothing of a run that never was below, or is so at its last measurement.

    curve: iteration x seed.
    """
    for _, series in curve.items():
        series = series.dropna()
        below = np.flatnonzero(series < 0.5)
        if len(below) and below[-1] < len(series) - 1:
            (at, later), (low, high) = series.index[below[-1] :][:2], series.iloc[below[-1] :][:2]
            yield at + (later - at) * (0.5 - low) / (high - low)
