"""Everything that needs a CUDA card, by one command, in minutes.

    python -m bench.gpu [config files] [--key=value] [--minutes=8] [--out=results/gpu]

Each part has a share of the time; if it fails or takes longer, its error is recorded and the next one starts:
the tests of a card; python -m bench config/shakespeare_noise.py, with --profile, with --jobs=1,2,4,8; as many
runs of config/study/table1_shakespeare.py as there is time for. Config files and keys override those of the
paper's size. The folder gets the output of each part, <part>.txt, bench.json, jobs.json, the compact records of
the runs, and summary.json: card, versions, date, how each part ended. Started again, it continues the runs,
which lie in out/. A rehearsal without a card:

    python -m bench.gpu config/cpu.py --device=cpu --minutes=5 --out=out/gpu
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from config import ROOT, UserError, load, run_script, user_path
from config.study import read_study
from data.files import read_json, replacing, write_json
from training.lifecycle import open_corpus
from training.machine import Machine, versions
from training.run_folder import find_runs

CONFIG = str(ROOT / "config" / "shakespeare_noise.py")
STUDY = str(ROOT / "config" / "study" / "table1_shakespeare.py")
SHARES = {"tests": 0.25, "bench": 0.4, "profile": 0.06, "jobs": 0.16}  # at most; what is left is the runs'
RESERVE = 0.04  # of the time, to stop the runs and to collect them
GRACE = 10  # seconds for a part to stop when its time is up
TIME_IS_UP = 4  # sweep.py's exit status


def main(argv):
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    minutes, out, words = read_options(argv)
    config = load([CONFIG, *words])
    machine = Machine.choose(config)
    if machine.kind != "cuda" and config.device == "auto":
        raise UserError("PyTorch sees no CUDA card here; to rehearse without one, python -m bench.gpu --help")
    if (config.dtype, machine.dtype) == ("auto", "float16"):  # or the card would emulate the study's bfloat16
        words = [*words, "--dtype=float16"]
    files = [word for word in words if not word.startswith("-")]
    study = read_study(STUDY, files, [word for word in words if word.startswith("-")])
    open_corpus(config, machine)  # prepares it before the clock runs
    end = time.monotonic() + 60 * minutes
    summary = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["python", "-m", "bench.gpu", *argv],
        "machine": machine.record(),
        "versions": versions(),
        "parts": [],
    }
    bench = ["-m", "bench", CONFIG, *words, f"--out={out}"]
    parts = {
        "tests": ["-m", "pytest", f"--rootdir={ROOT}", "-vvm", "cuda", f"{ROOT}/tests/test_cuda.py"],
        "bench": bench,
        "profile": [*bench, "--profile"],
        "jobs": [*bench, f"--jobs={'1,2,4,8' if machine.kind == 'cuda' else '1,2'}"],
    }
    for name, command in parts.items():
        do(name, command, 60 * minutes * SHARES[name], out, summary)
    (out / "trace.json").unlink(missing_ok=True)  # of the profile, too large to keep
    measured = summary["parts"][-1]["error"] is None  # and not left from an earlier time
    left = max(1, end - 60 * minutes * RESERVE - time.monotonic())
    jobs = best_jobs(read_json(out / "jobs.json") if measured else None, left)
    sweep = [str(ROOT / "sweep.py"), STUDY, *words, f"--jobs={jobs}", f"--time-budget={left:.0f}"]
    do("runs", sweep, end - time.monotonic(), out, summary)
    if any((run / "result.json").is_file() for run in find_runs([study.folder])):
        do("collect", ["-m", "analysis.collect", str(study.folder), f"--to={out}"], 60, out, summary)
    print(f"written: {out}")
    return 1 if any(part["error"] for part in summary["parts"]) else 0


def read_options(argv):
    """(minutes, the folder, the config files and keys)."""
    matches = [re.fullmatch(r"--(minutes|out)=(.+)", word) for word in argv]
    options = {"minutes": "8", "out": str(ROOT / "results" / "gpu")} | {m[1]: m[2] for m in matches if m}
    if not re.fullmatch(r"\d*\.?\d+", options["minutes"]) or not float(options["minutes"]):
        raise UserError(f"--minutes={options['minutes']} is not a number above 0")
    words = [word for word, match in zip(argv, matches) if not match]
    return float(options["minutes"]), user_path(options["out"]), words


def best_jobs(jobs, seconds):
    """How many runs at once make most of them end within so many seconds, by jobs.json; 1 without it."""

    def ended(row):
        return sum(int(seconds * rate / jobs["config"]["max_iters"]) for rate in row["steps_per_second"])

    return max(jobs["jobs"], key=ended)["jobs"] if jobs else 1  # of equals the first


def do(name, words, seconds, out, summary):
    """Do a part: what it says goes to <name>.txt, how it ended to the summary, at once."""
    print(f"{name}: python {' '.join(Path(word).name for word in words)}", flush=True)
    path, began, error = out / f"{name}.txt", time.monotonic(), None
    with replacing(path, "w", encoding="utf-8") as file:
        status = within([sys.executable, *words], seconds, file)
    last = (path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    if status is None:
        error = f"stopped after its {seconds:.0f} seconds"
    elif status and not (name == "runs" and status == TIME_IS_UP):
        error = f"exit status {status}: {last}"
    took = round(time.monotonic() - began, 1)
    summary["parts"].append({"name": name, "seconds": took, "status": status, "error": error, "last": last})
    write_json(out / "summary.json", summary)
    print(f"  {error or 'done'} ({took:.0f} s)", flush=True)


def within(command, seconds, file):
    """The exit status of a command; None where it took longer, and was stopped."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},  # so that its error comes last
    )  # fmt: skip
    try:
        return process.wait(max(1, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        process.kill()
        process.wait()


if __name__ == "__main__":
    run_script(main)
