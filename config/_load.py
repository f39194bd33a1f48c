"""From config files and a command line to the options of a run; every mistake is one line. No torch.

A configuration is the defaults of its kind, overridden by the config files in the order given, then by
--key=value. Config files are plain Python: what they assign must be options, of the options' types. Names that
begin with an underscore, functions and imported modules are the file's own.

`kind` is a dataclass of KINDS.
"""

import contextlib
import dataclasses
import difflib
import functools
import io
import os
import re
import runpy
import sys
import traceback
import types
from pathlib import Path

from config._classify import Classify
from config._command import ROOT, UserError, command, did_you_mean, quoted, run_script, user_path
from config._options import Config, derived, help_text, options_of

KINDS = {kind.program: kind for kind in (Config, Classify)}  # of options
BEFORE = {"activation": "gelu_tanh"}  # what runs had before there was the option, where not its default
# As nanoGPT says.
SAME = {("compile", "true"): "on", ("compile", "false"): "off", ("init_from", "scratch"): None}
ELSEWHERE = {  # options of nanoGPT and of transformers that are none here, and what to do instead
    "eval_iters": "use --eval_tokens, which says how many tokens an evaluation takes",
    "eval_only": "python -m training.evaluate RUN evaluates a run",
    "always_save_checkpoint": "last.pt and best.pt are always kept; --checkpoint_interval says how often",
    "decay_lr": "leave it out: the learning rate always decays, to --min_lr",
    "wandb_project": "set WANDB_PROJECT in the environment",
    "wandb_run_name": "set WANDB_NAME in the environment; it is the run folder without",
    "backend": "leave it out: under torchrun the device decides",
    "task": "python -m training.classify fine-tunes encoders on tasks of texts",
    **dict.fromkeys(("epochs", "num_train_epochs"), "use --max_iters, which counts updates"),
    **dict.fromkeys(("model_name_or_path", "model_name"), "use --model"),
    **dict.fromkeys(("train_file", "task_name"), "use --task"),
    "validation_file": "use --val_file",
    "max_seq_length": "use --max_length",
    "per_device_train_batch_size": "use --batch_size",
}
NANOGPT_FILES = {"train_shakespeare_char": "shakespeare_baseline"}  # its configs, and ours of the same kind


def load(argv, say=print, kind=Config):
    """The configuration that a command line describes.

    argv: config files and --key=value, in any order; files first, then the command line's own keys.
    say: is called with a line about what was made to fit.
    In the Config, out_dir and the options that derive from others are filled in. UserError for any mistake.
    """
    if "--help" in argv or "-h" in argv:
        print(help_text(kind))
        sys.exit(0)
    typed = dict(read_option(word, kind) for word in argv if word.startswith("-"))
    files = [config_path(word) for word in argv if not word.startswith("-")]
    options = {name: value for file in files for name, value in read_file(file, kind).items()} | typed
    if "warmup_iters" not in typed:
        fit_warmup(options, say, kind)
    return settle(options, files, kind)


def before_torch(argv, kind=Config):
    """Answer --help, and a mistake in the command line of a run, and exit. Of several processes the first
    answers --help; a mistake is left to one of them, once they have met. Threads are told how long to spin."""
    spin_less()
    rank, helped = os.environ.get("RANK"), {"--help", "-h"} & {*argv}
    if helped and rank not in (None, "0"):
        sys.exit()
    if helped or (rank is None and is_mistaken(argv, kind)):
        run_script(functools.partial(load, kind=kind))


def spin_less():
    """A thread of the CPU that waits for work spins for a while before it sleeps, and keeps a core from whoever
    shares the machine. libgomp's while is a hundred times as long as a step needs (docs/speed), and libgomp
    must be told before torch loads it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def is_mistaken(argv, kind):
    """Whether `load` refuses a command line; silently, since it will be read again."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            load(argv, kind=kind)
        except (UserError, OSError):
            return True
    return False


def fit_warmup(options, say, kind):
    """Shorten a warm-up that is longer than the run, and that nobody typed: to a tenth of the run."""
    end = options.get("lr_decay_iters") or options.get("max_iters", kind.max_iters)
    warmup = options.get("warmup_iters", kind.warmup_iters)
    if 1 <= end < warmup:
        options["warmup_iters"] = end // 10
        say(f"warmup_iters={warmup} does not fit into {end} iterations: {end // 10} instead")


def settle(options, files=(), kind=Config):
    """A checked Config from a dict of options, the derived ones and out_dir filled in."""
    config = kind(**checked(options, "the options", kind))
    known = derived(vars(config))
    filled = {name: value for name, value in known.items() if getattr(config, name) is None}
    if config.out_dir is None:
        stems = "+".join(Path(file).stem for file in files) or "defaults"
        filled["out_dir"] = f"out/{stems}/seed{config.seed}"
    elif not config.out_dir.strip():
        raise UserError("out_dir is empty: name a folder, or leave it out for out/<config files>/seed<seed>")
    config = dataclasses.replace(config, **filled)
    config.check()
    return config


def recorded(options, where="a config.json"):
    """The Config that a config.json tells of. Options that it does not know yet are as they were before there
    was a choice. UserError for one that there is no more, and for a value that it cannot have.

    where: names the file.
    """
    if not isinstance(options, dict):
        raise UserError(f"{where} holds {quoted(options)} where the options should be")
    kind = kind_of(options)
    options = (BEFORE if kind is Config else {}) | options
    if gone := options.keys() - options_of(kind).keys():
        raise UserError(
            f"{where} has the option {min(gone)!r}, which this version does not have:"
            " read its run with the version that trained it"
        )
    return kind(**checked(options, where, kind))


def kind_of(options):
    """The kind that some options are of: texts are classified where they name a task."""
    return Classify if "task" in options else Config


def read_file(path, kind):
    """The options that a config file assigns, checked by name and type."""
    if not path.is_file() and re.match(r"\w+=", str(path)):
        read_option(f"--{path}", kind)
        raise UserError(f"no config file {path}; did you mean --{path}?")
    assigned = run_file(path)
    if not assigned:
        raise UserError(f"{path} sets no option: a config is lines like learning_rate = 1e-3")
    if {"base", "arms"} <= assigned.keys():
        raise UserError(f"{path} is a study, not the config of a run: {command('sweep.py', path)}")
    return checked(assigned, path, kind)


def checked(options, where, kind=Config):
    """Options, each checked alone; a function is left as it is."""
    known_options(options, where, kind)
    return {
        name: value if callable(value) else check_value(name, value, where, kind)
        for name, value in options.items()
    }


def config_path(word):
    """The file that a user named, seen from the working folder or else from the repository's root."""
    path = user_path(word)
    return inside if not path.is_file() and (inside := ROOT / path).is_file() else path


def run_file(path, what="config file"):
    """What a file of plain Python assigns: {name: value}, without what is the file's own."""
    if not path.is_file():
        raise UserError(f"no {what} {path}{similar_file(path.stem, what)}")
    try:
        names = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        passed = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(path)]
        line = getattr(error, "lineno", None) or (passed or [0])[-1]
        raise UserError(f"{path}, line {line}: {type(error).__name__}: {error}") from None
    for name, value in names.items():
        if callable(value) and any(name in options_of(kind) for kind in KINDS.values()):
            raise UserError(f"{path}: {name} is an option: it must be a value, not a function")
    return {
        name: value
        for name, value in names.items()
        if not (name.startswith("_") or isinstance(value, types.ModuleType) or callable(value))
    }


def similar_file(stem, what):
    """The repository's own file whose name is most like a stem, as a hint."""
    files = (ROOT / "config" / ("study" if what == "study file" else "")).glob("[a-z]*.py")
    known = {file.stem: str(file.relative_to(ROOT)) for file in files}
    known |= {theirs: known[ours] for theirs, ours in NANOGPT_FILES.items() if ours in known}
    close = difflib.get_close_matches(stem, known, n=1, cutoff=0.7)
    return f"; did you mean {known[close[0]]!r}?" if close else ""


def read_option(word, kind=Config):
    """(option, value) of a --key=value."""
    match = re.fullmatch(r"--(\w+)=(.*)", word, re.DOTALL)
    if not match:
        name, _, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name.isidentifier():
            known_options([name], "the command line", kind)
        example = f"--{name}={value or getattr(kind, name)}" if name in options_of(kind) else "--seed=2"
        raise UserError(f"{word} is no option; options are written --key=value, for instance {example}")
    name, text = match.groups()
    known_options([name], "the command line", kind)
    return name, check_value(name, from_text(text, options_of(kind)[name].kinds), "the command line", kind)


def from_text(text, kinds):
    """The value that `text` stands for in the types of an option; the text itself where it stands for none."""
    if type(None) in kinds and text == "None":
        return None
    if bool in kinds:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    with contextlib.suppress(ValueError):
        return int(text) if int in kinds else float(text) if float in kinds else text
    return text


def known_options(names, where, kind):
    """UserError unless all of some names are those of options; it names all that are not."""
    if strange := [name for name in names if name not in options_of(kind)]:
        hints = dict.fromkeys(ELSEWHERE[name] for name in strange if name in ELSEWHERE)
        hint = "; ".join(hint for hint in hints if {*re.findall(r"--(\w+)", hint)} <= options_of(kind).keys())
        near = did_you_mean(str(strange[0]), options_of(kind)) if len(strange) == 1 else ""
        listed = f"{near} (python {kind.command} --help lists them all; a config file's own names begin with _)"
        raise UserError(
            f"{where}: no option is called {' or '.join(map(repr, strange))}{f': {hint}' if hint else listed}"
        )


def check_value(name, value, where, kind):
    """The value of an option, taken alone, an int made a float where the option is a float; UserError where its
    type is wrong or it makes no sense."""
    kinds, choices, limits = options_of(kind)[name]
    if isinstance(value, str | bool):
        value = SAME.get((name, str(value).lower()), value)
    if type(value) is int and float in kinds and abs(value) < 1e300:  # beyond it no float has room
        value = float(value)
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__.replace("NoneType", "None") for kind in kinds)
        raise UserError(f"{where}: {name} must be {wanted}, not {quoted(value)}")
    if choices and value not in choices:
        near = did_you_mean(value, choices)
        raise UserError(f"{where}: {name}={quoted(value)} is none of {', '.join(choices)}{near}")
    if limits and value is not None and not limits.hold(value):
        raise UserError(f"{where}: {name}={quoted(value)} cannot be: it is {limits.words}")
    return value
