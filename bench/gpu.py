"""A CUDA card, in two commands that each keep their time, and leave what they have found whenever they end.

    python -m bench.gpu check [config files] [--key=value] [--minutes=5] [--jobs=3] [--out=out/gpu]
    python -m bench.gpu train [config files] [--key=value] [--minutes=7] [--jobs=3] [--out=out/gpu]

check: the tests of a card, in so many processes, each test with a time limit of its own; then, alone on the
card, a step uncompiled, compiled and in CUDA graphs, what the noise adds, and the largest batch that 16 GB
hold. DIR gets machine.json, tests.jsonl and check.json, written as results come.

train: the missing runs of config/study/full_size.py, so many at once, baseline and noise of every seed before
the third arm; then those of full_size_rates.py. No run is begun that could not end in time, going by the last
one. DIR gets the compact records, written as each run ends, with those that results/ has, whose runs are not
done again. What was stopped lies in out/, and goes on. Without --compile it is that of check.json's ways, where
DIR has one of this card, in which a run is fastest and no test failed.

Config files and keys go over the paper's size. Rehearsals without a card:

    python -m bench.gpu check config/cpu.py --device=cpu --compile=off --minutes=2
    python -m bench.gpu train config/cpu.py --device=cpu --max_iters=20 --minutes=1
"""

from bench.began import BEGAN  # first, so that the clock counts what the others take

# isort: split
import contextlib
import dataclasses
import faulthandler
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pandas as pd

from analysis.collect import collect, merge
from analysis.records import RUNS, read, read_lines, read_study_json
from analysis.statistics import compare
from bench.report import milliseconds, shown
from bench.subprocesses import ended, kill
from config import ROOT, Parser, UserError, cores, load, run_script, user_path
from config.study import read_study
from data.corpus import corpus_folder
from data.files import read_json, write_json
from sweep import TIME_IS_UP, Sweep, describe
from training.machine import Machine, versions
from training.status import check_runs, result_of

CONFIG = str(ROOT / "config" / "shakespeare_noise.py")
PLAN = [("full_size", ["noise"]), ("full_size", None), ("full_size_rates", None)]  # study, arms
MINUTES = {"check": 5, "train": 7}
CACHE = ".compile_cache"  # of all processes; check begins with none. out/ may lie where nothing can be executed
PARTS = {  # the words of a measurement, and its share of the time at most; the tests come before
    "uncompiled": (["-m", "bench.card", "step", CONFIG, "--compile=off"], 0.15),
    "compiled": (["-m", "bench.card", "step", CONFIG, "--compile=on"], 0.4),
    "compiled again": (["-m", "bench.card", "step", CONFIG, "--compile=on"], 0.2),
    "in CUDA graphs": (["-m", "bench.card", "step", CONFIG, "--compile=graphs"], 0.3),
    "16 GB": (["-m", "bench.card", "largest", CONFIG, "--compile=off"], 0.2),
}
SAID = 30  # lines that are kept of what a measurement said
TESTS, RESERVE = 0.4, 0.05  # shares of the time; RESERVE at the end is for stopping, and as much for telling
TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L4": 121, "T4": 65, "4090": 165, "3090": 71}  # dense, 16 bits
GOOD = ("passed", "skipped")
LOSSES = ["final_val_loss", "best_val_loss", "final_train_loss"]


def main(argv):
    options, words = read_options(argv)
    left = BEGAN + options.seconds - time.monotonic()
    faulthandler.dump_traceback_later(left, exit=True, file=sys.__stderr__)  # whatever hangs
    try:
        config = load([CONFIG, *words])
        machine = Machine.choose(config)
        if machine.kind != "cuda" and config.device == "auto":
            raise UserError("PyTorch sees no CUDA card here; bench.gpu --help has a rehearsal without one")
        corpus_folder(config.dataset)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(CACHE).absolute())
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, cores() // options.jobs)))
        record = {"began": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine.record()}
        record |= {"driver": driver(), "versions": versions(), "config": dataclasses.asdict(config)}
        write_json(options.out / "machine.json", record)
        print(f"{machine}; driver {record['driver']}; PyTorch {record['versions']['torch']}", flush=True)
        return (check if options.command == "check" else train)(options, words, record)
    finally:
        faulthandler.cancel_dump_traceback_later()


def read_options(argv):
    """(our own options, the config files and keys)."""
    parser = Parser(prog="python -m bench.gpu", add_help=False)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--out", type=user_path, default=Path("out/gpu"))
    options, words = parser.parse_known_args(argv)
    options.command, *words = words or [""]
    if options.command not in MINUTES:
        raise UserError("python -m bench.gpu check, or train; --help shows how they are used")
    options.seconds = 60 * (MINUTES[options.command] if options.minutes is None else options.minutes)
    if not (time.monotonic() - BEGAN < options.seconds < 1e6 and options.jobs > 0):
        raise UserError("--minutes and --jobs are numbers above 0, and minutes enough to begin")
    options.end = BEGAN + (1 - 2 * RESERVE) * options.seconds
    return options, words


def driver():
    """NVIDIA's driver, and the card's memory in all; None where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


# check


def check(options, words, record):
    """The tests, then the measurements; the exit status is 1 where one failed."""
    shutil.rmtree(CACHE, ignore_errors=True)
    well, record["tests failed"] = run_tests(options, record["machine"]["device"])
    for name, (part, share) in PARTS.items():
        began = time.monotonic()
        status, said = ended([*part, *words], min(share * options.seconds, options.end - began))
        record[name] = found_in(said, status)
        write_json(options.out / "check.json", record)
        well &= status == 0
        print(f"{name}: {record[name].get('error', 'done')} ({time.monotonic() - began:.0f} s)", flush=True)
    if rows := {name: row(record[name], record) for name in PARTS if "seconds" in record[name]}:
        print(pd.DataFrame(rows).map(shown).to_string())
    print("the largest batch that 16 GB hold, uncompiled:", record["16 GB"].get("batch", "unknown"))
    return 0 if well else 1


def found_in(said, status):
    """What a measurement printed as JSON, or why it did not, and the last lines that it said."""
    found = {"error": said[-1]}
    if status == 0:
        with contextlib.suppress(StopIteration, ValueError):
            found = json.loads(next(line for line in reversed(said) if line.startswith("{")))
    return {**found, "said": [line for line in said if not line.startswith("{")][-SAID:]}


def run_tests(options, device):
    """Tell what the tests came to, which DIR/tests.jsonl has as it comes; returns whether all passed, and the
    names of those that failed, without those that the end of the time cut off."""
    file, tests, marker = options.out / "tests.jsonl", {}, "cuda" if device.startswith("cuda") else "not cuda"
    file.write_text("")
    words = [str(ROOT / "tests" / "card.py"), str(file), str(options.jobs), marker]
    status, said = ended(words, BEGAN + TESTS * options.seconds - time.monotonic())
    for line in file.read_text().splitlines():
        with contextlib.suppress(ValueError):  # one that was cut off
            tests.setdefault((event := json.loads(line))["test"].split("::")[-1], {}).update(event)
    outcomes = Counter(test.get("outcome", "not ended") for test in tests.values())
    print("tests:", ", ".join(f"{count} {how}" for how, count in outcomes.items()), flush=True)
    if not tests or status is None:
        print(*said[-SAID:], sep="\n", flush=True)
    bad = {name: test for name, test in tests.items() if "began" in test and test.get("outcome") not in GOOD}
    for name, test in bad.items():
        print(f"  {name}: {test.get('outcome', 'cut off')} {in_short(test.get('said', ''))}", flush=True)
    return status == 0, [name for name, test in bad.items() if "outcome" in test]


def in_short(said):
    """The error of a failed test's report, or else its last line."""
    lines = said.strip().splitlines() or [""]
    return next((line for line in lines if line.startswith("E ")), lines[-1])


def row(part, record):
    """What a way of computing a step comes to; a run's seconds are without its start."""
    noise, quiet = (part["seconds"][name] for name in ("noise", "quiet"))
    card = record["machine"]["name"]
    tera = next((tera for name, tera in TFLOPS.items() if re.search(rf"\b{name}\b", card)), None)
    rate, config = part["tokens"] / median(noise), record["config"]
    steps, looks = config["max_iters"], config["max_iters"] / config["eval_interval"] + 1
    return {
        "compiled": part["how"],
        "compilation, s": part["compile"],
        "graphs skipped": part["cudagraph_skips"],
        "a step without noise, ms": milliseconds(quiet),
        "the noise adds, ms": milliseconds(added := [a - b for a, b in zip(noise, quiet)]),
        "the noise adds, %": 100 * median(added) / median(quiet),
        "tokens a second": rate,
        "FLOP/s, % of the card's": tera and 1e-10 * part["flops_per_token"] * rate / tera,
        "peak memory, GB": (part["peak"] or 0) / 1e9,
        "an evaluation, s": part["evaluation"],
        "a checkpoint, s": part["checkpoint"],
        "a run, s": steps * median(noise) + looks * (part["evaluation"] + part["checkpoint"]),
    }


# train


def train(options, words, record):
    """Train what there is time for; returns the exit status, 1 where a run failed."""
    checked = read_json(options.out / "check.json") or {"machine": {}}
    if not any(word.startswith("--compile=") for word in words) and of_one_card(checked, record):
        words = [*words, *fastest(checked)]
    files, keys = ([word for word in words if word.startswith("-") == key] for key in (False, True))
    places, seconds, statuses, go_on = {}, 0, set(), True
    for name, arms in PLAN:
        study = read_study(ROOT / "config" / "study" / f"{name}.py", files, keys, arms=arms)
        places[name] = place = options.out / study.name / study.size
        done = begin_records(study, place)
        runs = tuple(run for run in study.runs if (run.arm, run.seed) not in done)
        if runs and go_on and time.monotonic() + seconds < options.end:
            session = Session(dataclasses.replace(study, runs=runs), options, place, seconds)
            session.run()
            statuses.add(session.report())
            seconds, go_on = session.seconds, session.ended and not session.signal
    tell([place for place in places.values() if (place / RUNS).is_file()])
    return max(statuses - {TIME_IS_UP}, default=0)


def of_one_card(*records):
    return len({record["machine"].get("name") for record in records}) == 1


def fastest(record):
    """The --compile of the way of computing a step in which a run is fastest by check's record, without those
    in which a test failed, but for a test of the other 16 bits; none where there is no such record."""
    other = "-bfloat16]" if record.get("machine", {}).get("dtype") == "float16" else "-float16]"
    failed = " ".join(name for name in record.get("tests failed", []) if not name.endswith(other))
    rows = [row(part, record) for name in PARTS if "seconds" in (part := record.get(name, {}))]
    rows = [way for way in rows if f"[{way['compiled']}" not in failed]
    if not rows:
        return []
    how = min(rows, key=lambda way: way["a run, s"])["compiled"]
    print(f"--compile={how}, in which a run is fastest by check.json", flush=True)
    return [f"--compile={how}"]


def begin_records(study, place):
    """Begin with the records that results/ has, and the runs that out/ has; returns their {(arm, seed)}."""
    known = ROOT / "results" / study.name / study.size
    if (known / RUNS).is_file():
        lines = {(line["arm"], line["seed"]): line for line in read_lines(known / RUNS)}
        merge(place, study.record(), read_study_json(known)["corpora"], lines)
    check_runs(study.runs)
    write_json(study.folder / "study.json", study.record())
    collect(study.folder, study.record(), place)
    return {(line["arm"], line["seed"]) for line in read_lines(place / RUNS)}


class Session(Sweep):
    """A sweep that begins no run which could not end in time, and keeps the record of each that ends.

    seconds: those that the run took which was the last to end.
    """

    def __init__(self, study, options, place, seconds):
        describe(study, options.jobs)
        super().__init__(study, options.jobs, options.end - time.monotonic())
        self.place, self.seconds, self.began, self.ended = place, seconds, {}, 0
        self.grace = RESERVE * options.seconds

    def start(self):
        if time.monotonic() + self.seconds > self.deadline:
            self.waiting.clear()
        super().start()
        for folder in self.running:
            self.began.setdefault(folder, time.monotonic())

    def collect(self):
        before = dict(self.running)
        super().collect()
        ended = [folder for folder in before.keys() - self.running.keys() if result_of(before[folder][0])]
        for folder in ended:
            self.seconds = time.monotonic() - self.began[folder]
            self.ended += 1
            collect(self.study.folder, self.study.record(), self.place)

    def stop(self):
        """Ask each run to stop at a checkpoint; end those that have not after a while."""
        super().stop()
        self.deadline = min(self.deadline, time.monotonic())
        if time.monotonic() > self.deadline + self.grace:
            for _, process in self.running.values():
                kill(process)
            self.running.clear()


def tell(places):
    """What the records hold by now."""
    if not places:
        print("no run has ended")
        return
    records = read(places)
    columns = ["study", "arm", "seed", *LOSSES, "seconds", "machine", "torch"]
    print(records.runs.reindex(columns=columns).to_string(index=False))
    compared = [where for where, about in records.studies.items() if about["purpose"] == "comparison"]
    for loss, where in itertools.product(LOSSES, compared):
        print(f"{loss}, arm minus baseline; no verdict before all planned seeds are there")
        print(compare(records, *where, loss)[["seeds", "mean", "half_width", "verdict"]].to_string())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that nothing is left behind
    run_script(main, __doc__)
