"""A copy of the tree to attack, processes that run its scripts, and the judgement of what they leave.

PyTorch is imported once; each command runs in a forked child, as `python script words` would, so that it may be
killed, be robbed of its disk, or run out of time or memory. Linux and macOS only.
"""

import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
LAB = Path(tempfile.mkdtemp(prefix="campaign-"))
TREE = LAB / "tree"
MEMORY = 8 << 30  # bytes of address space that a command may have, so that a size that cannot be harms nobody
LIMIT = 240  # seconds that a command may take, unless its attack says otherwise; far more than any needs
NOBODY = 65534
CLOCK = re.compile(r"seconds|per_second|peak_memory|resumed|began|crc32")  # what a clock or the machine decides
OWN = re.compile(
    r"\.?(config\.json|run\.json|log\.jsonl|result\.json|sharpness\.json|\w+\.pt|lock)(\..*tmp|\.\w+)?"
)

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # a process with threads cannot be forked safely
os.environ |= {"MPLBACKEND": "agg", "MPLCONFIGDIR": str(LAB / "matplotlib"), "PYTHONDONTWRITEBYTECODE": "1"}
shutil.copytree(
    SOURCE, TREE, ignore=shutil.ignore_patterns(".*", "out", "docs", "tests", "figures", "*.gz", "__pycache__")
)
LAB.chmod(0o755)  # for what runs as nobody
sys.path.insert(0, str(TREE))

import torch  # noqa: E402

ROOMS = ("train", "plot", "sweep", "analysis.collect", "analysis.report")
CODECS = (f"encodings.{name}" for name in ("utf_32_be", "unicode_escape", "idna", "latin_1"))  # nobody may read
for module in ("torch._dynamo", "requests", "xml.etree.ElementTree", *CODECS, *ROOMS):
    importlib.import_module(module)  # once, for all children

torch.set_num_threads(1)
init = torch.amp.GradScaler.__init__
init.__defaults__ = (
    *init.__defaults__[:1],
    2.0**24,
    *init.__defaults__[2:],
)  # so high that float16 skips steps


class Wrong(Exception):
    """What an attacked command did that it must not, in a line whose words before a colon name the kind."""


class Child:
    """A command in a forked child, from its start; `status`, `out` and `err` once it has ended.

    before: called in the child first. user: the user id that it runs as, if this process may choose.
    """

    def __init__(self, folder, script, words, before=None, user=None, **environment):
        self.script = script
        shown = (word if len(word) < 80 else f"{word[:40]}... ({len(word):,} characters)" for word in words)
        self.command = " ".join(["python", script, *(ascii(word)[1:-1] for word in shown)])
        self.io = Path(tempfile.mkdtemp(dir=LAB))
        self.status = None
        for name in ("out", "err"):
            (self.io / name).touch()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            try:
                live(folder, script, words, self.io, before, user, environment)
            finally:
                os._exit(99)

    def poll(self, flags=os.WNOHANG):
        """The exit status, minus the signal's number where one killed it; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.out, self.err = ((self.io / name).read_text(errors="replace") for name in ("out", "err"))
                shutil.rmtree(self.io)
        return self.status

    def wait(self, limit=LIMIT):
        """Until it ends; Wrong where it takes longer than `limit` seconds."""
        self.wait_while(lambda: True, limit)
        if self.status is None:
            self.kill()
            raise Wrong(f"a hang: {self.command} ran over {limit} s")
        return self

    def wait_while(self, condition, limit):
        end = time.monotonic() + limit
        while self.poll() is None and condition() and time.monotonic() < end:
            time.sleep(0.002)

    def send(self, number):
        if self.status is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send(signal.SIGKILL)
        self.poll(0)

    @property
    def said(self):
        return self.out + self.err


def live(folder, script, words, io, before, user, environment):
    """The life of a child: what Python does with `python script words`, from its arguments to its status."""
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(io / name, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (
        open(n, "w", encoding="utf-8", errors=e) for n, e in ((1, "strict"), (2, "replace"))
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.environ |= {"HOME": str(folder), **environment}
    if user and os.geteuid() == 0:
        os.setgid(user)
        os.setuid(user)
    sys.argv, status = [script, *words], 0
    try:
        if before:
            before()
        runpy.run_path(str(TREE / script), run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


class Case:
    """One attack: a copy of a template in a folder of its own, and draws that its class, seed and number alone
    decide."""

    def __init__(self, kind, seed, index, template):
        self.index, self.rng = index, random.Random(f"{kind} {seed} {index}")
        self.home = LAB / f"{kind}-{seed}-{index}"
        self.path = self.home / "here"
        shutil.copytree(LAB / template, self.path, symlinks=True)
        self.commands = []

    def start(self, script, words, **how):
        self.commands.append(Child(self.path, script, words, **how))
        return self.commands[-1]

    def run(self, script, words, limit=LIMIT, **how):
        return self.start(script, words, **how).wait(limit)

    def end(self, keep):
        for command in self.commands:
            command.kill()
        if not keep:
            with contextlib.suppress(OSError):
                shutil.rmtree(self.home)


def is_refusal(child):
    """Whether a command ended with status 2 and one line of error, its last."""
    lines = child.err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return child.status == 2 and len(errors) == 1 and lines[-1] == errors[0]


def outcome(child, fine=(0,)):
    """Whether it is "fine" or "refused"; Wrong for any other end."""
    if child.status == 2 and is_refusal(child):
        return "refused"
    if child.status in fine and "Traceback" not in child.err:
        return "fine"
    lines = child.err.strip().splitlines() or ["nothing"]
    traces = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    what = "a traceback" if "Traceback" in child.err else f"status {child.status}, {len(lines)} lines of error"
    raise Wrong(f"{what}: {(traces or lines)[-1][:250]}: {child.script}")


# What a run has come to.


def digest(value, into=None):
    """A hash of a nest of dicts, lists, tensors and plain values, times apart."""
    into = into or hashlib.sha256()
    if isinstance(value, torch.Tensor):
        into.update(repr((value.dtype, tuple(value.shape))).encode() + value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted((key for key in value if not CLOCK.search(str(key))), key=str):
            into.update(repr(key).encode())
            digest(value[key], into)
    elif isinstance(value, (list, tuple)):
        into.update(b"[%d" % len(value))
        for item in value:
            digest(item, into)
    else:
        into.update(repr(value).encode())
    return into.hexdigest()


def timeless(values):
    return {key: value for key, value in values.items() if not CLOCK.search(key)}


def summary(run):
    """What must not depend on interruptions: last weights, best weights, result, events."""
    last, best = (torch.load(run / name, weights_only=True) for name in ("last.pt", "best.pt"))
    events = [timeless(json.loads(line)) for line in (run / "log.jsonl").read_text().splitlines()]
    best = {key: best[key] for key in ("model", "iter", "val_loss")}
    result = timeless(json.loads((run / "result.json").read_text()))
    return {"weights": digest(last["model"]), "best": digest(best), "result": result, "log": events}


def check_same(run, wanted, said):
    """Wrong unless a run ended as the uninterrupted one did, but for lines of the log whose loss was said."""
    try:
        found = summary(run)
    except Exception as error:
        raise Wrong(f"a run that ended is not whole: {error!r}") from None
    kinds = [event["kind"] for event in wanted["log"]]
    found["log"] = [event for event in found["log"] if event.get("kind") in kinds]
    for part in wanted:
        if found[part] == wanted[part]:
            continue
        if part == "log" and "log.jsonl" in said and all(event in wanted["log"] for event in found["log"]):
            continue
        sizes = f"{len(found[part])} of {len(wanted[part])} events" if part == "log" else ""
        raise Wrong(f"another {part} in silence: {sizes}")


def snapshot(folder):
    """{path below a folder: hash, or where it points, or what it is}."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "a folder"
    return found
