"""Attacks on files: flipped bits; folders whose files are damaged, missing, of another shape, or foreign."""

import functools
import json
import os
import shutil

import template
import torch
from lab import LAB, NOBODY, OWN, Wrong, check_same, outcome, snapshot, summary
from template import words

RUN = "out/tiny/full/noise/seed1"
COMMANDS = {  # name: (script, words, what it may write)
    "resume": ("train.py", words("init_from"), "run"),
    "again": ("train.py", words("init_from", out_dir="done"), "done"),
    "fresh": ("train.py", words("noise", out_dir="fresh", max_iters=6), "fresh"),
    "tune": ("train.py", words(init_from="done", out_dir="tuned", max_iters=6), "tuned"),
    "tune export": ("train.py", words(init_from="export", out_dir="tuned", max_iters=6, bias=True), "tuned"),
    "sample": ("sample.py", ["done", "--max_new_tokens=40"], None),
    "sample export": ("sample.py", ["export", "--max_new_tokens=40"], None),
    "evaluate": ("training/evaluate.py", ["done"], None),
    "export": ("training/export.py", ["done", "again"], "again"),
    "plot": ("plot.py", ["out"], "out"),
    "collect": ("analysis/collect.py", ["out", "--to=taken"], "taken"),
    "report": ("analysis/report.py", ["records"], "records"),
    "dry run": ("sweep.py", ["tiny.py", "--dry-run"], None),
}
OLDER = "without a key"  # as records of older versions are, in which readers take the default
TRAINING = {"resume": "run", "fresh": "fresh", "tune": "tuned", "tune export": "tuned"}
FLIPS = [  # file, the commands that read it; files are drawn alike
    ("run/last.pt", ("resume",)),
    ("run/last.pt", ("resume",)),
    ("run/best.pt", ("resume",)),
    ("run/start.pt", ("resume",)),
    ("done/best.pt", ("sample", "evaluate", "export", "tune")),
    ("done/last.pt", ("evaluate",)),
    ("export/model.safetensors", ("sample export", "tune export")),
    ("run/log.jsonl", ("resume",)),
    ("run/config.json", ("resume",)),
    ("run/run.json", ("resume",)),
    ("done/config.json", ("evaluate", "export")),
    ("done/run.json", ("sample", "evaluate", "again")),
    ("done/result.json", ("again",)),
    (f"{RUN}/result.json", ("dry run", "collect", "plot")),
    (f"{RUN}/log.jsonl", ("collect",)),
    ("corpus/meta.json", ("fresh", "resume", "evaluate")),
    ("corpus/train.bin", ("fresh", "resume", "evaluate")),
    ("corpus/val.bin", ("fresh", "resume", "evaluate")),
]


def prepare():
    for name in COMMANDS:
        undisturbed(name)


@functools.cache
def undisturbed(name):
    """What a command comes to in the folder that nothing has damaged; call it before the attacks."""
    folder = LAB / f"undisturbed {name}"
    shutil.copytree(LAB / "full", folder)
    script, arguments, _ = COMMANDS[name]
    return result(name, folder, template.do(folder, script, *arguments))


def result(name, folder, child):
    """The end of a run, or what a reader has printed and written but for pictures."""
    if name in TRAINING:
        return summary(folder / TRAINING[name])
    pictures, there = (".pdf", ".png"), before_all()
    files = {path: what for path, what in snapshot(folder).items() if path not in there}
    return child.out, {path: what for path, what in files.items() if not path.endswith(pictures)}


@functools.cache
def before_all():
    return snapshot(LAB / "full")


def check(case, name, damaged, how="", **start):
    """Run a command on what was damaged: recovered, or refused in one line; else Wrong."""
    script, arguments, _ = COMMANDS[name]
    try:
        child = case.run(script, arguments, **start)
        if outcome(child) == "refused":
            return "refused"
        loose = damaged.endswith("study.json") and "missing" in how  # runs of no study
        if name not in TRAINING and (OLDER in how or loose):
            return "recovered"
        if name in TRAINING:
            check_same(case.path / TRAINING[name], undisturbed(name), child.said)
        elif result(name, case.path, child) != undisturbed(name) and not said_of(child, damaged):
            raise Wrong(f"another result in silence: {name}")
    except Wrong as wrong:
        raise Wrong(f"{wrong} ({damaged}{how})") from None
    return "recovered"


def said_of(child, path):
    """Whether a command has said something of a file, or of its folder, in a line that is no ordinary one."""
    ordinary = undisturbed_lines()
    lines = [line for line in child.said.splitlines() if line not in ordinary]
    return any(os.path.dirname(path) in line or os.path.basename(path) in line for line in lines)


@functools.cache
def undisturbed_lines():
    return {line for name in COMMANDS if name not in TRAINING for line in undisturbed(name)[0].splitlines()}


# flips


def flip(case):
    """One bit of one file, then a command that reads it."""
    name, commands = case.rng.choice(FLIPS)
    content = bytearray((case.path / name).read_bytes())
    at, bit = int(case.rng.random() * len(content)), case.rng.randrange(8)
    content[at] ^= 1 << bit
    (case.path / name).write_bytes(content)
    around = bytes(content[max(0, at - 12) : at + 12]) if name.endswith(("json", "jsonl")) else b""
    how = f", byte {at:,}, bit {bit} {around or ''}"
    return check(case, case.rng.choice(commands), name, how)


# folders

OTHER_JSON = ("[]", "null", "{}", "5", '"x"', "", "[" * 100_000, '{"a": 1', "\x00\xff", "1e999", '{"a": NaN}')
OTHER_VALUES = [
    *(None, [], {}, 5, "x", -1, 0.5, 10**9, 10**400, True, [[1]], {"a": {}}, "../../escaped", "\ud800", "\0"),
]
JSON_FILES = {  # file: the commands that read it
    "run/config.json": ("resume",),
    "run/run.json": ("resume",),
    "done/config.json": ("evaluate", "export", "tune", "again"),
    "done/run.json": ("sample", "evaluate", "export", "tune", "again"),
    "done/result.json": ("again",),
    **{f"{RUN}/{name}": ("plot", "collect", "dry run") for name in ("config.json", "run.json", "result.json")},
    "out/tiny/full/study.json": ("plot", "collect"),
    "records/tiny/full/study.json": ("report",),
    "export/config.json": ("sample export", "tune export"),
    "export/corpus.json": ("sample export", "tune export"),
    "corpus/meta.json": ("fresh", "resume", "evaluate"),
}
CHECKPOINTS = {
    **{"run/last.pt": ("resume",), "run/best.pt": ("resume",), "run/start.pt": ("resume",)},
    "done/best.pt": ("sample", "evaluate", "export", "tune"),
    "export/model.safetensors": ("sample export", "tune export"),
}
LOGS = {"run/log.jsonl": ("resume",), f"{RUN}/log.jsonl": ("plot", "collect", "dry run")}
OURS = ("last.pt", "best.pt", "run.json", "log.jsonl", "result.json")
INVADED = {  # what is in a folder that a run is sent into
    "a home": (),
    "hugging face": ("config.json", "model.safetensors"),
    "our names": ("last.pt", "result.json", "lock"),
    "our log": ("log.jsonl",),
    "export": (),
}
ANY = {**JSON_FILES, **CHECKPOINTS, **LOGS, "corpus/train.bin": ("fresh", "resume", "evaluate")}
LINES = (
    *(f'{{"kind": "eval", "iter": {value}}}' for value in ('"x"', "null", "3", "1e400", "[]")),
    *('{"kind": [], "iter": 3}', '{"kind": "train", "iter": 3, "loss": "x"}', '{"kind": "train", "iter": -5}'),
    *("[]", "null", "{}", '{"kind":', "\x00" * 50, "[" * 100_000),
)


def harm(case):
    """One damage of a kind that the number chooses, then a command that reads it; nothing foreign changes."""
    how = case.rng.choices([*HARMS], [weight for weight, _ in HARMS.values()])[0]
    return HARMS[how][1](case, how)


def harmed(files, change):
    """A harm: change(case, path) damages one of some files and returns what it did."""

    def harm(case, how):
        name, commands = case.rng.choice([*files.items()])
        done = change(case, case.path / name)
        return unharmed(case, case.rng.choice(commands), name, f": {how} {done or ''}"[:200])

    return harm


def unharmed(case, command, name, how, **start):
    """As `check`, and Wrong where a file has changed that is not the command's to write."""
    before = snapshot(case.home)
    verdict = check(case, command, name, how, **start)
    check_foreign(case, before, COMMANDS[command][2], f"({command}, {name}{how})")
    return verdict


def check_foreign(case, before, place, how):
    """Wrong where anything has changed but what a command may write: new files in its place, a run's own."""
    after, ours = snapshot(case.home), f"here/{place}"
    for path in before.keys() | after.keys():
        if before.get(path) == after.get(path):
            continue
        inside = place and (path == ours or path.startswith(f"{ours}/"))
        if not inside or (path in before and not OWN.fullmatch(os.path.basename(path))):
            raise Wrong(f"a foreign file {'changed' if path in before else 'appeared'}: {path} {how}")


def replace_json(case, path):
    text = case.rng.choice(OTHER_JSON)
    path.write_text(text, encoding="latin-1")
    return f"is {text[:20]!a}"


def change_key(case, path, drop=False):
    """Drop one key of a JSON object, at any depth, or give it another value."""
    whole = json.loads(path.read_text())
    inside = [whole]
    while (deeper := [v for v in inside[-1].values() if isinstance(v, dict) and v]) and case.rng.random() < 0.5:
        inside.append(case.rng.choice(deeper))
    key = case.rng.choice([*inside[-1]])
    value = inside[-1].pop(key)
    if not drop:
        inside[-1][key] = case.rng.choice([other for other in OTHER_VALUES if type(other) is not type(value)])
    path.write_text(json.dumps(whole))
    return f"{key}={inside[-1].get(key, 'left out')!r}"


def change_line(case, path):
    lines = path.read_text().splitlines()
    at, line = case.rng.randrange(len(lines)), case.rng.choice(LINES)
    lines[at] = line
    path.write_text("\n".join(lines) + "\n")
    return f"{at} is {line[:40]!r}"


def change_checkpoint(case, path):
    """A checkpoint that loads, and is none of this run."""
    if path.suffix != ".pt":
        return truncate(case, path)
    state = torch.load(path, weights_only=True)
    key = case.rng.choice([*state])
    whole = case.rng.random() < 0.2
    value = case.rng.choice([torch.zeros(3), [], None, 10**9, -1, "x", {}, float("nan")])
    if whole:
        state = value
    elif case.rng.random() < 0.4:
        del state[key]
    else:
        state[key] = value
    torch.save(state, path)
    return f"whole is {value!r}" if whole else f"{key} is {state.get(key, 'left out')!r}"


def remove(case, path):
    path.unlink()


def truncate(case, path):
    size = case.rng.choice([0, 1, int(case.rng.random() * path.stat().st_size)])
    os.truncate(path, size)
    return f"to {size:,}"


def make_folder(case, path):
    path.unlink()
    path.mkdir()


def link(case, path):
    """A link in a file's place: to the file moved elsewhere, to nothing, or to itself."""
    aside, kind = case.home / "aside", case.rng.choice(("elsewhere", "nothing", "itself"))
    aside.mkdir()
    shutil.move(path, aside / path.name)
    path.symlink_to({"elsewhere": aside / path.name, "nothing": aside / "none", "itself": path}[kind])
    return f"to {kind}"


def make_unreadable(case, how):
    """A file, or its folder, that the user who runs the command may not read or write."""
    name, commands = case.rng.choice([*ANY.items()])
    for path in (case.path, *case.path.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    path = case.path / name if case.rng.random() < 0.5 else (case.path / name).parent
    path.chmod(case.rng.choice((0, 0o400, 0o500, 0o200)))
    return unharmed(case, case.rng.choice(commands), name, f": {how}", user=NOBODY)


def plant_link(case, how):
    """A link at the name of the temporary file that a run would write."""
    victim, name = case.path / "victim", case.rng.choice(OURS)
    victim.write_text("mine")

    def plant():
        for planted in (f".{name}.{os.getpid()}.tmp", f".{name}.tmp"):
            (case.path / "run" / planted).symlink_to(victim)

    return unharmed(case, "resume", f"run/{name}", f": {how}", before=plant)


def invade(case, how):
    """A run into a folder of other things: it goes in beside them, or is refused; they stay as they are."""
    home, kind = case.path / "home", case.rng.choice((*INVADED, "run"))
    shutil.copytree(case.path / kind, home) if kind in ("export", "run") else home.mkdir()
    names = [".something.tmp", ".bashrc", "notes.txt", ".swp.123.tmp", *INVADED.get(kind, ())]
    for name in names:
        (home / name).write_text('{"model_type": "gpt2"}' if name.endswith("json") else "mine")
    inside, overwrite = case.rng.random() < 0.5, case.rng.random() < 0.6
    away = {"dataset": case.path / "corpus", "init_from": case.path / "source"} if inside else {}
    run = words("init_from", out_dir="." if inside else "home", overwrite=overwrite, **away)
    before = snapshot(home)
    verdict = outcome(case.run("train.py", run, before=(lambda: os.chdir("home")) if inside else None))
    after = snapshot(home)
    for name in before:
        if after.get(name) != before[name] and not (kind == "run" and OWN.fullmatch(name)):
            raise Wrong(f"a foreign file changed: {name} ({kind}, {inside=}, {overwrite=}, {verdict})")
    return "refused" if verdict == "refused" else "recovered"


HARMS = {  # name: (how often, what it does)
    "whole": (5, harmed(JSON_FILES, replace_json)),
    OLDER: (4, harmed(JSON_FILES, functools.partial(change_key, drop=True))),
    "a key of another type": (8, harmed(JSON_FILES, change_key)),
    "a line": (4, harmed(LOGS, change_line)),
    "a checkpoint of another shape": (5, harmed(CHECKPOINTS, change_checkpoint)),
    "missing": (2, harmed(ANY, remove)),
    "truncated": (3, harmed(ANY, truncate)),
    "a folder in its place": (2, harmed(ANY, make_folder)),
    "a link in its place": (2, harmed(ANY, link)),
    "unreadable": (2, make_unreadable),
    "a planted link": (1, plant_link),
    "a folder of other things": (4, invade),
}
