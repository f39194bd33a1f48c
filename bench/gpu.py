"""Everything that needs a CUDA card, by one command, in minutes.

    python gpu.py [config files] [--key=value] [--minutes=8] [--out=results/gpu]

Each part has its share of the time; if it fails or takes longer, its error is recorded and the next one starts:

    tests      pytest -m cuda
    bench      bench.py: the cost of config/shakespeare_noise.py
    profile    bench.py --profile: the kernels that take longest
    jobs       bench.py --jobs=1,2,4,8: runs per hour by how many train at once
    runs       as many runs of config/study/table1_shakespeare.py as there is time for, then collect.py

The config files and keys override those of the paper's size. The folder gets the output of each part
(<part>.txt), bench.json, profile.json, jobs.json and the compact records of the runs, which plot.py draws, and
summary.json: card, versions, date, how each part ended. Started again, it repeats the other parts and continues
the runs, which lie in out/.

Without a card it can be rehearsed:

    python gpu.py config/cpu.py --device=cpu --minutes=5 --out=out/gpu
"""

import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench.costs import runs_an_hour
from config import ROOT, UserError, load, run_script
from config.study import read_study
from data.files import read_json, replacing, write_json
from train import open_corpus
from training.machine import Machine, versions
from training.run_folder import find_runs

CONFIG = str(ROOT / "config" / "shakespeare_noise.py")
STUDY = str(ROOT / "config" / "study" / "table1_shakespeare.py")
PYTEST = [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
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
        raise UserError("PyTorch sees no CUDA card here; to rehearse without one, python gpu.py --help")
    words = in_its_precision(words, config, machine)
    study = read_study(STUDY, *overlays(words))
    open_corpus(config, machine)  # prepares it before the clock runs
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    summary = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["python", "gpu.py", *argv],
        "minutes": minutes,
        "machine": machine.record(),
        "card": card(machine),
        "versions": versions(),
        "parts": [],
    }
    for name, command in commands(words, machine, out).items():
        do(name, command, 60 * minutes * SHARES[name], out, summary)
    (out / "trace.json").unlink(missing_ok=True)  # of the profile, too large to keep
    last = end - 60 * minutes * RESERVE
    measured = summary["parts"][-1]["error"] is None  # and not left from an earlier time
    jobs = best_jobs(read_json(out / "jobs.json") if measured else None, last - time.monotonic())
    do("runs", sweep_command(words, jobs, last - time.monotonic()), end - time.monotonic(), out, summary)
    if any((run / "result.json").is_file() for run in find_runs([study.folder])):
        do("collect", script("collect.py", str(study.folder), f"--to={out}"), 60, out, summary)
    print(f"written: {out}")
    return 1 if any(part["error"] for part in summary["parts"]) else 0


def read_options(argv):
    """(minutes, the folder, the config files and keys)."""
    options, words = {"minutes": "8", "out": str(ROOT / "results" / "gpu")}, []
    for word in argv:
        match = re.fullmatch(r"--(minutes|out)=(.+)", word)
        if match:
            options[match[1]] = match[2]
        else:
            words.append(word)
    if not re.fullmatch(r"\d*\.?\d+", options["minutes"]) or not float(options["minutes"]):
        raise UserError(f"--minutes={options['minutes']} is not a number above 0")
    return float(options["minutes"]), Path(options["out"]), words


def in_its_precision(words, config, machine):
    """The words, with float16 where the card is for that: it would emulate the study's bfloat16."""
    return [*words, "--dtype=float16"] if (config.dtype, machine.dtype) == ("auto", "float16") else words


def overlays(words):
    """(config files, --key=value words)."""
    files = [word for word in words if not word.startswith("-")]
    return files, [word for word in words if word.startswith("-")]


def card(machine):
    """Name and memory of a CUDA card; None without one."""
    if machine.kind != "cuda":
        return None
    about = torch.cuda.get_device_properties(machine.device)
    return {
        "name": about.name,
        "memory_bytes": about.total_memory,
        "capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
    }


def script(name, *words):
    return [sys.executable, str(ROOT / name), *words]


def commands(words, machine, out):
    """The parts before the runs."""
    bench, here = script("bench.py", CONFIG, *words), f"--out={out}"
    numbers = "1,2,4,8" if machine.kind == "cuda" else "1,2"
    return {
        "tests": [*PYTEST, "-m", "cuda", "-vv", "--tb=short", str(ROOT / "tests" / "test_cuda.py")],
        "bench": [*bench, here],
        "profile": [*bench, "--profile", here],
        "jobs": [*bench, f"--jobs={numbers}", here],
    }


def sweep_command(words, jobs, seconds):
    return script("sweep.py", STUDY, *words, f"--jobs={jobs}", f"--time-budget={max(1, seconds):.0f}")


def best_jobs(jobs, seconds):
    """How many runs at once make most of them end within so many seconds, by jobs.json; 1 without it."""
    if not jobs:
        return 1
    ended = {}
    for row in jobs["jobs"]:
        of_one = 3600 * row["jobs"] / runs_an_hour(row, jobs["config"]["max_iters"])
        ended[row["jobs"]] = row["jobs"] * int(seconds / of_one)
    return max(ended, key=ended.get)  # of equals the first


def do(name, command, seconds, out, summary):
    """Do a part: what it says goes to <name>.txt, how it ended to the summary, at once."""
    print(f"{name}: {' '.join(Path(word).name for word in command)}", flush=True)
    began = time.monotonic()
    with replacing(out / f"{name}.txt", "w", encoding="utf-8") as file:
        status = within(command, seconds, file)
    text = (out / f"{name}.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    error = None
    if status is None:
        error = f"stopped after its {seconds:.0f} seconds"
    elif status and not (name == "runs" and status == TIME_IS_UP):
        error = f"exit status {status}: {text[-1] if text else 'it said nothing'}"
    took = time.monotonic() - began
    part = {"name": name, "seconds": round(took, 1), "status": status, "error": error}
    summary["parts"].append({**part, "last": text[-1] if text else ""})
    write_json(out / "summary.json", summary)
    print(f"  {error or 'done'} ({took:.0f} s)", flush=True)


def within(command, seconds, file):
    """The exit status of a command; None where it took longer, and was stopped."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        return process.wait(max(1, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


if __name__ == "__main__":
    run_script(main)
