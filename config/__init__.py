"""Every knob of a run: one frozen dataclass, its checks, and `load(argv)`.

A configuration is the defaults below, overridden by the config files in the order given, then by --key=value.
Config files are plain Python: what they assign must be a knob, of the knob's type. Names that begin with an
underscore, functions and imports are the file's own.
"""

import dataclasses
import difflib
import inspect
import math
import os
import re
import runpy
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """A mistake of the user's: one line that names the mistake and the mend; exit status 2."""


def run_script(main):
    """Run `main(argv)` as a script: its return value is the exit status; a UserError, or a file that the
    system refuses, is one line and status 2. A terminal without some character shows it as "?"."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def cores():
    """CPU cores that this process may use, for whoever shares them out."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Config:
    # == corpus and batches ==
    dataset: str = "pydoc_char"  # a folder under data/, or the path of a prepared corpus
    train_tokens: int | None = None  # train on the first so many tokens of the train split; None: on all
    input_noise: float = 0.0  # probability with which an input symbol is replaced by one of the train split
    batch_size: int = 64  # sequences per micro-step, over all processes
    block_size: int = 256  # context length, tokens
    gradient_accumulation_steps: int = 1  # micro-steps per iteration

    # == model ==
    n_layer: int = 6  # transformer blocks
    n_head: int = 6  # attention heads per block
    n_embd: int = 384  # width, a multiple of n_head
    dropout: float = 0.2  # probability, on embeddings, attention and both residual branches
    bias: bool = False  # biases in Linear and LayerNorm
    init_from: str | None = None  # start from a run folder's best weights, or a GPT-2 folder; None: fresh

    # == AdamW and its learning rate ==
    max_iters: int = 5000  # optimizer updates
    learning_rate: float = 1e-3  # the peak, reached after warm-up
    warmup_iters: int = 100  # iterations of linear warm-up; the first step is not zero
    lr_decay_iters: int | None = None  # iteration at which the cosine reaches min_lr; None: max_iters
    min_lr: float | None = None  # learning rate at the end of the cosine; None: learning_rate / 10
    weight_decay: float = 0.1  # decoupled, on matrices and embeddings only
    beta1: float = 0.9  # decay of the first moment; SGD's momentum
    beta2: float = 0.99  # decay of the second moment
    optimizer: str = "adamw"  # adamw, adam or sgd; weight decay is decoupled in adamw alone
    grad_clip: float = 1.0  # largest global gradient norm; 0: no clipping

    # == gradient noise (noise.py) ==
    noise_schedule: str = "exponential"  # exponential, linear, cosine, constant, inverse or plateau
    noise_sigma: float = 0.0  # sigma_0, the sd at iteration 0 (all but inverse); 0: no noise
    noise_gamma: float = 0.99  # exponential: sigma_t = sigma_0 * gamma^t; plateau: at each failure to improve
    noise_eta: float = 0.0  # inverse: the variance is eta / (1 + t)^0.55
    noise_steps: int | None = None  # linear, cosine: iterations until sigma is 0; None: max_iters
    plateau_interval: int = 250  # plateau: iterations between the evaluations that steer it
    noise_distribution: str = "gaussian"  # gaussian, uniform or laplace, each of sd sigma_t
    noise_scale: str = "absolute"  # absolute, global (times the gradient's RMS) or tensor (each its own)
    noise_before_clip: bool = False  # True: added before clipping, not after
    noise_params: str = "all"  # all, embeddings, attention, mlp, first_block or last_block
    noise_anticorrelated: bool = False  # True: (xi_t - xi_(t-1)) / sqrt 2 in place of xi_t
    noise_target: str = "gradient"  # gradient, first_moment, second_moment(_mean), weights or learning_rate
    reset_below_sigma: float = 0.0  # forget AdamW's moments when sigma first is under this; 0: never
    diagnose_interval: int = 0  # iterations between measurements of what noise does to an update; 0: none

    # == noise in the weights of init_from, once, before the first step (NoisyTune) ==
    noisytune_lambda: float = 0.0  # W + U(-lambda/2, lambda/2) * std(W); its paper's is 0.15; 0: none
    noisytune_distribution: str = "uniform"  # uniform or gaussian, each of sd lambda * std(W) / sqrt 12
    noisytune_std: str = "tensor"  # tensor (each one's own std) or global (one for all)

    # == randomness ==
    seed: int = 1  # initial weights, dropout and noise; data too unless data_seed is set
    data_seed: int | None = None  # order of the batches; None: seed

    # == looking: none of these changes a weight ==
    eval_interval: int = 250  # iterations between evaluations
    eval_tokens: int = 262_144  # val tokens per evaluation, at most; the whole split at the end
    eval_train_tokens: int = 65_536  # train tokens per evaluation, at most, in fixed windows
    log_interval: int = 10  # iterations between log lines
    checkpoint_interval: int = 500  # iterations between checkpoints
    sample_tokens: int = 0  # length of the sample printed at the end, tokens; 0: none
    plot: bool = False  # draw the run's figures at the end, as `python plot.py RUN` does

    # == machine ==
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    dtype: str = "auto"  # auto, float32, bfloat16 or float16 (with a gradient scaler)
    compile: str = "auto"  # auto (on CUDA only), on or off
    threads: int = 0  # CPU threads of each process; 0: PyTorch's choice. Restored on resume

    # == run folder ==
    out_dir: str | None = None  # the run folder; None: out/<config files>/seed<seed>
    overwrite: bool = False  # True: begin afresh where a run lies already

    @property
    def tokens_per_iter(self):
        return self.batch_size * self.block_size * self.gradient_accumulation_steps

    @property
    def noisy(self):
        return self.noise_sigma > 0 or self.noise_eta > 0


KNOBS = typing.get_type_hints(Config)
ALIASES = {  # options' earlier names, which old records and command lines have
    "noise_draw": "noise_distribution",
    "noise_point": "noise_target",
    "noise_where": "noise_params",
    "noisytune_draw": "noisytune_distribution",
}

# What two runs may differ in and still be one run: cadence, logging, place and machine. Not eval_tokens
# and eval_train_tokens: they change no weight, but what a logged loss is the mean of.
NOT_IDENTITY = {
    *("eval_interval", "log_interval", "checkpoint_interval", "sample_tokens", "plot"),
    *("device", "compile", "threads", "out_dir", "overwrite"),
}

# Ranges of the knobs taken alone.
POSITIVE = (
    *("batch_size", "block_size", "gradient_accumulation_steps", "n_layer", "n_head", "n_embd"),
    *("lr_decay_iters", "noise_steps", "train_tokens", "plateau_interval"),
    *("eval_interval", "eval_tokens", "eval_train_tokens", "log_interval", "checkpoint_interval"),
)
NOT_NEGATIVE = (
    *("learning_rate", "min_lr", "warmup_iters", "weight_decay", "grad_clip"),
    *("seed", "data_seed", "sample_tokens", "diagnose_interval"),
)
RANGES = {
    **dict.fromkeys(POSITIVE, (lambda x: 1 <= x <= 1e12, "from 1 to 1e12")),
    **dict.fromkeys(NOT_NEGATIVE, (lambda x: x >= 0, "0 or more")),
    **dict.fromkeys(
        ("noise_sigma", "noise_eta", "reset_below_sigma", "noisytune_lambda"),
        (lambda x: 0 <= x <= 1e6, "from 0 to 1e6"),
    ),
    "max_iters": (lambda x: 1 <= x <= 1e8, "from 1 to 1e8"),  # the trace of them lies on the device
    "noise_gamma": (lambda x: 0 <= x <= 1, "from 0 to 1"),
    "threads": (lambda x: 0 <= x <= 1024, "from 0 to 1024"),
    **dict.fromkeys(("dropout", "input_noise", "beta1", "beta2"), (lambda x: 0 <= x < 1, "from 0 to under 1")),
}

CHOICES = {
    "noise_schedule": ("exponential", "linear", "cosine", "constant", "inverse", "plateau"),
    "noise_distribution": ("gaussian", "uniform", "laplace"),
    "noisytune_distribution": ("uniform", "gaussian"),
    "noisytune_std": ("tensor", "global"),
    "noise_scale": ("absolute", "global", "tensor"),
    "optimizer": ("adamw", "adam", "sgd"),
    "noise_params": ("all", "embeddings", "attention", "mlp", "first_block", "last_block"),
    "noise_target": (
        *("gradient", "first_moment", "second_moment", "second_moment_mean"),
        *("weights", "learning_rate"),
    ),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "compile": ("auto", "on", "off"),
}


def identity(config):
    """The knobs, as a dict, that make two runs the same run.

    The derived defaults are filled in, so that data_seed=None and data_seed=seed are one.
    """
    knobs = dataclasses.asdict(config)
    for name, value in derived(knobs).items():
        knobs[name] = value if knobs[name] is None else knobs[name]
    return {name: value for name, value in knobs.items() if name not in NOT_IDENTITY}


def recorded(knobs):
    """The Config that a config.json tells of. Knobs that it does not know yet have their defaults, which
    leave things as they were without the knob; knobs that there are no more are left out."""
    if not isinstance(knobs, dict):
        raise UserError(f"a config.json holds {knobs!r} where the knobs should be")
    knobs = {ALIASES.get(name, name): value for name, value in knobs.items()}
    return Config(**{name: value for name, value in knobs.items() if name in KNOBS})


def derived(knobs):
    """What the knobs that default to None stand for, by name."""
    return {
        "data_seed": knobs["seed"],
        "lr_decay_iters": knobs["max_iters"],
        "min_lr": knobs["learning_rate"] / 10,
        "noise_steps": knobs["max_iters"],
    }


def load(argv):
    """The configuration that a command line describes.

    argv: config files and --key=value, in any order; files first, then the command line's own keys.
    Returns a Config without open ends: out_dir and the knobs that derive from others are filled in.
    Raises UserError for an unknown name, a wrong type, a bad file, or knobs at odds with each other.
    """
    if "--help" in argv or "-h" in argv:
        print(help_text())
        sys.exit(0)
    options = dict(read_option(word) for word in argv if word.startswith("-"))
    files = [Path(word) for word in argv if not word.startswith("-")]
    knobs = {}
    for file in files:
        knobs.update(read_file(file))
    return settle({**knobs, **options}, files)


def settle(knobs, files=()):
    """A checked Config from a dict of knobs, the derived ones and out_dir filled in."""
    config = Config(**knobs)
    check_ranges(config)
    filled = {
        name: value
        for name, value in derived(dataclasses.asdict(config)).items()
        if getattr(config, name) is None
    }
    if config.out_dir is None:
        stems = "+".join(Path(file).stem for file in files) or "defaults"
        filled["out_dir"] = f"out/{stems}/seed{config.seed}"
    elif not config.out_dir.strip():
        raise UserError("out_dir is empty: name a folder, or leave it out for out/<config files>/seed<seed>")
    config = dataclasses.replace(config, **filled)
    check_together(config)
    check_init_from(config)
    return config


def read_file(path):
    """The knobs a config file assigns, checked by name and type."""
    if not path.is_file() and "=" in str(path):
        raise UserError(f"no config file {path}; did you mean --{path}?")
    assigned = run_file(path)
    if {"base", "arms"} <= assigned.keys():
        raise UserError(f"{path} is a study, not the config of a run: python sweep.py {path}")
    assigned = {ALIASES.get(name, name): value for name, value in assigned.items()}
    known_knobs(assigned, path)
    return {name: check_type(name, value, path) for name, value in assigned.items()}


def run_file(path, kind="config file"):
    """What a file of plain Python assigns: {name: value}, without what is the file's own."""
    if not path.is_file():
        known = [str(file.relative_to(ROOT)) for file in sorted((ROOT / "config").rglob("[a-z]*.py"))]
        raise UserError(f"no {kind} {path}{did_you_mean(str(path), known)}")
    try:
        names = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        line = getattr(error, "lineno", None) or last_line(error.__traceback__, path)
        raise UserError(f"{path}, line {line}: {type(error).__name__}: {error}") from None
    return {
        name: value
        for name, value in names.items()
        if not (name.startswith("_") or isinstance(value, types.ModuleType) or callable(value))
    }


def last_line(traceback, path):
    """The line of `path` that a traceback last passed through."""
    line = 0
    while traceback:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def read_option(word):
    """(knob, value) of a --key=value."""
    match = re.fullmatch(r"--(\w+)=(.*)", word, re.DOTALL)
    if not match:
        name = word.lstrip("-")
        name, _, value = name.partition("=")
        name = name.replace("-", "_")
        example = f"--{name}={value or getattr(Config, name)}" if name in KNOBS else "--seed=2"
        raise UserError(f"{word} is no option; options are written --key=value, for instance {example}")
    name, text = match.groups()
    name = ALIASES.get(name, name)
    known_knobs([name], "the command line")
    return name, check_type(name, from_text(name, text), "the command line")


def from_text(name, text):
    """The value that `text` stands for in the type of a knob; the text itself where it stands for none."""
    kinds = alternatives(name)
    if type(None) in kinds and text == "None":
        return None
    if bool in kinds:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                return text
    return text


def known_knobs(names, where):
    """UserError unless all of some names are those of knobs; it names all that are not."""
    if strange := [name for name in names if name not in KNOBS]:
        called = " or ".join(map(repr, strange))
        raise UserError(
            f"{where}: no knob is called {called}{did_you_mean(strange[0], KNOBS) if len(strange) == 1 else ''}"
            " (python train.py --help lists them all; a config file's own names begin with _)"
        )


def check_type(name, value, where):
    """The value, an int made a float where the knob is a float; UserError where the type is wrong."""
    kinds = alternatives(name)
    if type(value) is int and float in kinds and abs(value) < 1e300:  # beyond it no float has room
        return float(value)
    if type(value) in kinds:
        return value
    wanted = " or ".join(kind.__name__.replace("NoneType", "None") for kind in kinds)
    raise UserError(f"{where}: {name} must be {wanted}, not {value!r}")


def alternatives(name):
    """The types a knob takes: (int,), or (int, NoneType) for an `int | None`."""
    return typing.get_args(KNOBS[name]) or (KNOBS[name],)


def did_you_mean(word, known):
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_ranges(config):
    """UserError unless every knob, taken alone, makes sense."""
    for name, allowed in CHOICES.items():
        value = getattr(config, name)
        if value not in allowed:
            raise UserError(f"{name}={value!r} is none of {', '.join(allowed)}{did_you_mean(value, allowed)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", config.device):
        raise UserError(f"device={config.device!r} is none of auto, cpu, cuda, cuda:N, mps")
    for name, (within, limits) in RANGES.items():
        value = getattr(config, name)
        finite = isinstance(value, int) or value is None or math.isfinite(value)
        if value is not None and not (finite and within(value)):
            raise UserError(f"{name}={value!r} is out of range: {name} is {limits}")


def check_together(config):
    """UserError where knobs contradict each other. Derived knobs are filled in."""
    if config.n_embd % config.n_head:
        raise UserError(f"n_embd={config.n_embd} is not a multiple of n_head={config.n_head}")
    if config.min_lr > config.learning_rate:
        raise UserError(
            f"min_lr={config.min_lr} is above learning_rate={config.learning_rate}: lower it too, or leave it"
            " to --min_lr=None, a tenth of the learning rate"
        )
    if config.warmup_iters > config.lr_decay_iters:
        raise UserError(
            f"warmup_iters={config.warmup_iters} is beyond lr_decay_iters={config.lr_decay_iters}"
            " (which is max_iters unless it is set): warm up for less"
        )
    check_noise_point(config)
    if config.noise_schedule == "inverse" and config.noise_sigma > 0:
        raise UserError("noise_schedule='inverse' takes noise_eta, a variance: set noise_sigma=0")
    if config.noise_schedule == "inverse" and config.noise_eta == 0:
        raise UserError("noise_schedule='inverse' needs noise_eta, for instance --noise_eta=0.01")
    if config.noise_schedule != "inverse" and config.noise_eta > 0:
        raise UserError(
            f"noise_eta={config.noise_eta} belongs to noise_schedule='inverse';"
            f" {config.noise_schedule!r} takes noise_sigma"
        )


def check_init_from(config):
    """UserError where init_from names no folder, or the run's own."""
    if config.noisytune_lambda and config.init_from is None:
        raise UserError(
            f"noisytune_lambda={config.noisytune_lambda} perturbs pretrained weights: name them by --init_from"
        )
    if config.init_from is None:
        return
    if not config.init_from.strip():
        raise UserError("init_from is empty: name a run folder, or leave it out for fresh weights")
    here, there = (Path(path).expanduser().resolve() for path in (config.out_dir, config.init_from))
    if here == there:
        raise UserError(f"init_from={config.init_from!r} is the run's own folder: choose another --out_dir")


def source_wanted(init_from):
    """What there is to do about an init_from that is not there, in words."""
    for file in sorted((ROOT / "config").glob("[a-z]*.py")):
        if run_file(file).get("out_dir") == init_from:
            return f"train it first by config/{file.name} (README.md has the command for each size)"
    if init_from == "resume":
        return "a run that was stopped goes on by its own command, without init_from"
    return "name a run's folder, or one in the Hugging Face GPT-2 format, fetched as README.md says"


def check_noise_point(config):
    """UserError where the noise cannot go to where it is asked to go."""
    point, beta1, beta2 = config.noise_target, config.beta1, config.beta2
    if point != "gradient" and config.noise_before_clip:
        raise UserError(f"noise_target={point!r} does not combine with noise_before_clip: leave that out")
    needs_moments = point.endswith(("moment", "moment_mean", "rate")) or config.reset_below_sigma > 0
    if needs_moments and config.optimizer != "adamw":
        raise UserError(
            f"noise_target={point!r} and reset_below_sigma need optimizer='adamw', whose moments they use"
        )
    if "moment" in point and 0 in (beta1, beta2):
        raise UserError(f"noise_target={point!r} needs beta1 and beta2 above 0, not {beta1} and {beta2}")
    if point in ("weights", "learning_rate") and (config.noise_scale, config.noise_params) != (
        "absolute",
        "all",
    ):
        raise UserError(f"noise_target={point!r} needs noise_scale='absolute' and noise_params='all'")
    if config.diagnose_interval and (
        config.optimizer == "sgd" or config.noise_before_clip or config.batch_size < 2
    ):
        raise UserError(
            "diagnose_interval needs Adam or AdamW, noise after clipping, and a batch_size of 2 or more"
        )
    if config.reset_below_sigma and config.noise_schedule == "plateau":
        raise UserError(
            "reset_below_sigma needs a sigma that is a function of the step: not noise_schedule='plateau'"
        )


def differences(config):
    """{knob: value} where a Config differs from the defaults, the derived ones left out."""
    return {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if value != getattr(Config, name)
        and value != derived(dataclasses.asdict(config)).get(name)
        and name != "out_dir"
    }


def help_text():
    """Every knob with its default and its comment, from the source of Config itself."""
    lines = [
        "python train.py [CONFIG_FILE ...] [--key=value ...]",
        "",
        "Defaults, then the files in order, then the command line; the later wins.",
    ]
    for line in inspect.getsource(Config).splitlines():
        if group := re.fullmatch(r"\s+# == (.*) ==", line):
            lines += ["", group[1]]
        elif knob := re.fullmatch(r"\s+(\w+): [^=]+ = (.+?)  # (.*)", line):
            lines.append(f"  --{knob[1] + '=' + knob[2]:<38} {knob[3]}")
    return "\n".join(lines)
