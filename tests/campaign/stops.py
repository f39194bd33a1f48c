"""Attacks that stop a run: signals, crashes at single file operations, power cuts, full disks, lost parents."""

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import disk
import template
from lab import LAB, LIMIT, TREE, Wrong, check_same, outcome, summary

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
KILLED_KINDS = (*("plain", "noise", "plateau", "float16", "init_from", "diagnosis") * 3, "two processes")
DISK_KINDS = ("plain", "init_from")
GONE = 15  # seconds in which a process notices that its parent has gone
LONGEST = 600  # seconds that a run of LONG may take, on a busy machine
LONG = {
    **{"max_iters": 250, "gradient_accumulation_steps": 8, "eval_interval": 100},
    **{"checkpoint_interval": 10, "log_interval": 5},
}


def ends_right(case, kind, run="run"):
    """Resume a run to its end: recovered, or refused in one line; Wrong where it ends otherwise."""
    ranks = template.start_ranks(case.start, kind)
    ended = [outcome(child.wait()) for child in ranks]
    if "refused" in ended:
        return "refused"
    check_same(case.path / run, template.wanted[kind], "".join(child.said for child in ranks))
    return "recovered"


# kills


def prepare_kills():
    for kind in dict.fromkeys(KILLED_KINDS):
        template.undisturbed(kind)


def kill(case):
    """Signals at random moments of a run and of its resumes, then a resume to the end."""
    kind = case.rng.choice(KILLED_KINDS)
    for _ in range(case.rng.choice((1, 1, 2, 3))):
        ranks = template.start_ranks(case.start, kind)
        interrupt(case, ranks, case.rng.random() * template.seconds[kind])
        end_together(ranks)
        for child in ranks:
            check_stop(child.wait())
    return ends_right(case, kind)


def interrupt(case, ranks, after):
    """One signal, or two shortly after another, to all processes or, of SIGKILL, to one."""
    number = case.rng.choice(SIGNALS)
    ranks[0].wait_while(lambda: True, after)
    hit = [case.rng.choice(ranks)] if number == signal.SIGKILL and case.rng.random() < 0.5 else ranks
    for child in hit:
        child.send(number)
    if case.rng.random() < 0.25:
        time.sleep(case.rng.random() * 0.05)
        for child in ranks:
            child.send(case.rng.choice(SIGNALS))


def end_together(ranks):
    """When one rank has gone, tell the others to stop, as torchrun does: they may be waiting for it to join."""
    ranks[0].wait_while(lambda: all(child.poll() is None for child in ranks), LIMIT)
    for child in ranks:
        child.send(signal.SIGTERM)


def check_stop(child):
    """Wrong where a signal ended a process with a traceback other than Ctrl-C's before the script has begun."""
    if "Traceback" in child.err and not child.err.strip().endswith("KeyboardInterrupt"):
        outcome(child, fine=())


# crashes, power cuts, full disks


@functools.cache
def operations(kind):
    """[(operation, path)] of the undisturbed run of a kind."""
    template.undisturbed(kind)
    folder = LAB / f"undisturbed {kind}"
    shutil.rmtree(folder / "run")
    return disk.operations_of(folder, template.words(kind))


def prepare_disk():
    for kind in DISK_KINDS:
        operations(kind)


def fail_at(case, make):
    """The child that a fault at some operation ended. make(kind, instant) gives the fault."""
    kind = case.rng.choice(DISK_KINDS)
    rare = [n for n, (name, _) in enumerate(operations(kind)) if name != "write"]
    instant = case.rng.choice([case.rng.choice(rare), case.rng.randrange(len(operations(kind)))])
    fault = make(kind, instant)
    child = case.run("train.py", template.words(kind), before=lambda: disk.watch(fault))
    return kind, child, f"operation {instant}, {' '.join(operations(kind)[instant])}"


def crash(case):
    when = case.rng.choice(("before", "within", "after"))
    kind, child, where = fail_at(case, lambda _, instant: disk.Die(case.path, instant, when))
    if child.status != disk.DIED:
        outcome(child)
    return said_where(case, kind, f"{when} {where}")


def cut_power(case):
    seed = case.rng.random()
    kind, child, where = fail_at(
        case, lambda _, instant: disk.PowerCut(case.path, case.path / "run", instant, seed)
    )
    if child.status != disk.DIED:
        outcome(child)
    left = ", ".join(sorted(path.name for path in (case.path / "run").iterdir()))
    return said_where(case, kind, f"before {where}; left: {left}")


def fill_disk(case):
    number, once = case.rng.choice(((errno.ENOSPC, False), (errno.EIO, False), (errno.EIO, True)))
    kind, child, where = fail_at(case, lambda _, instant: disk.Fail(case.path, instant, number, once))
    where = f"{errno.errorcode[number]} {'at' if once else 'from'} {where}"
    try:
        if outcome(child) == "refused" and str(Path("run") / "") not in child.err:
            raise Wrong(f"a line that names no file: {child.err.strip()}")
    except Wrong as wrong:
        raise Wrong(f"{wrong} ({where})") from None
    return said_where(case, kind, where)


def said_where(case, kind, where):
    try:
        return ends_right(case, kind)
    except Wrong as wrong:
        raise Wrong(f"{wrong} ({kind}, {where})") from None


# orphans


def orphan(case):
    """kill -9 of torchrun, or of sweep.py: what they started stops by itself, and their command goes on."""
    words, run = case.rng.choice((torchrun, sweep))(case)
    calm = case.home / "calm"
    shutil.copytree(case.path, calm)
    parent = start(case.path, words)
    if not wait_for(lambda: '"iter": 30,' in text_of(run / "log.jsonl"), parent):
        raise Wrong(f"a run that does not come to iteration 30: {text_of(case.home / 'said')[-300:]}")
    parent.kill()
    parent.wait()
    check_gone(case.path, run)
    for folder in (case.path, calm):
        if start(folder, words).wait(LONGEST):
            raise Wrong(f"a lost parent's command does not go on: {text_of(case.home / 'said')[-300:]}")
    check_same(run, summary(calm / run.relative_to(case.path)), "")
    return "recovered"


def torchrun(case):
    """(the words after `python`, the run's folder)."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(TREE / "train.py")]
    return [*words, *template.words("plain", **LONG)], case.path / "run"


def sweep(case):
    study = template.STUDY.replace("dict(noise_sigma=0.0)", f"dict(**{LONG})").replace("(1, 2)", "(1,)")
    (case.path / "tiny.py").write_text(study)
    return [str(TREE / "sweep.py"), "tiny.py"], case.path / "out/tiny/full/baseline/seed1"


def start(folder, words):
    with open(folder.parent / "said", "a") as said:
        environment = os.environ | {"PYTHONPATH": str(TREE)}
        how = {"stdout": said, "stderr": said, "env": environment}
        return subprocess.Popen([sys.executable, *words], cwd=folder, **how)


def wait_for(condition, process=None, limit=GONE):
    """Whether a condition comes to hold, in time or before a process ends."""
    end = time.monotonic() + (LONGEST if process else limit)
    while not condition():
        if time.monotonic() > end or (process and process.poll() is not None):
            return False
        time.sleep(0.05)
    return True


def check_gone(folder, run):
    """Wrong where a process that works in a folder lives on, or has trained to the end."""
    gone = wait_for(lambda: not living(folder))
    reached = text_of(run / "log.jsonl").strip().rpartition("\n")[2][:40]
    for process in living(folder):
        os.kill(process, signal.SIGKILL)
    wait_for(lambda: not living(folder))
    if not gone or (run / "result.json").exists():
        raise Wrong(f"an orphan trains on: {GONE} s later {reached}")


def living(folder):
    """The processes whose working folder this is, as /proc tells."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if (
                os.readlink(path) == str(folder)
                and "Z" not in (path.parent / "stat").read_text().split(")")[1][:3]
            ):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def text_of(path):
    return path.read_text(errors="replace") if path.is_file() else ""
