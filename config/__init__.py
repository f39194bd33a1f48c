"""Every option of a run: one frozen dataclass, its checks, and `load(argv)`. No torch.

`kind` is the dataclass: Config of train.py, or Classify of training.classify (config/_classify.py).

A configuration is the defaults below, overridden by the config files in the order given, then by --key=value.
Config files are plain Python: what they assign must be options, of the options' types. Names that begin with
an underscore, functions and imports are the file's own.
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import os
import re
import runpy
import sys
import traceback
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from config._command import PATH, UserError, can_be_path, command, did_you_mean, shown, user_path
from config._command import Parser as Parser
from config._command import cores as cores
from config._command import counted as counted
from config._command import run_script as run_script

ROOT = Path(__file__).resolve().parent.parent


class Limits(NamedTuple):
    """Which values of an option make sense, and the same in words."""

    hold: typing.Callable
    words: str


Name = Annotated[str, Limits(can_be_path, PATH)]
Size = Annotated[int, Limits(lambda x: 1 <= x <= 1e12, "from 1 to 1e12")]
Iterations = Annotated[int, Limits(lambda x: 1 <= x <= 1e8, "from 1 to 1e8")]  # their history is on the device
Layers = Annotated[int, Limits(lambda x: 1 <= x <= 10_000, "from 1 to 10,000")]
Count = Annotated[int, Limits(lambda x: 0 <= x < 1 << 63, "from 0 to 2**63 - 1")]
Threads = Annotated[int, Limits(lambda x: 0 <= x <= 1024, "from 0 to 1024")]
NotNegative = Annotated[float, Limits(lambda x: 0 <= x <= 1e30, "from 0 to 1e30")]  # float32 has room
Strength = Annotated[float, Limits(lambda x: 0 <= x <= 1e6, "from 0 to 1e6")]
Fraction = Annotated[float, Limits(lambda x: 0 <= x < 1, "from 0 to under 1")]
UpToOne = Annotated[float, Limits(lambda x: 0 <= x <= 1, "from 0 to 1")]
Device = Annotated[
    str, Limits(lambda x: re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?|mps", x), "auto, cpu, cuda, cuda:N or mps")
]
Schedule = Literal["exponential", "linear", "cosine", "constant", "inverse", "plateau"]
Scale = Literal["absolute", "global", "tensor"]
Target = Literal[
    *("gradient", "first_moment", "second_moment", "second_moment_mean", "weights", "learning_rate"),
    *("clean_direction", "noisy_direction"),
]
Params = Literal["all", "embeddings", "attention", "mlp", "first_block", "last_block"]


@dataclass(frozen=True)
class Config:
    program, command = "train", "train.py"  # no options: they have no type

    # == corpus and batches ==
    dataset: Name = "pydoc_char"  # a folder under data/, or the path of a prepared corpus
    train_tokens: Size | None = None  # train on the first so many tokens of the train split; None: on all
    input_noise: Fraction = 0.0  # probability with which an input symbol is replaced by one of the train split
    batch_size: Size = 64  # sequences per micro-step, over all processes
    block_size: Size = 256  # context length, tokens
    gradient_accumulation_steps: Size = 1  # micro-steps per iteration

    # == model ==
    n_layer: Layers = 6  # transformer blocks
    n_head: Size = 6  # attention heads per block
    n_embd: Size = 384  # width, a multiple of n_head
    dropout: Fraction = 0.2  # probability, on embeddings, attention and both residual branches
    bias: bool = False  # biases in Linear and LayerNorm
    activation: Literal["gelu", "gelu_tanh"] = "gelu"  # exact, as nanoGPT's; gelu_tanh: GPT-2's approximation
    init_from: Name | None = None  # a run folder's best weights, or a GPT-2 folder; None: fresh ones
    init_scale: Strength = 1.0  # times the sd of fresh matrices and embeddings
    init_noise: Strength = 0.0  # sd of Gaussian noise added once to all fresh weights

    # == AdamW and its learning rate ==
    max_iters: Iterations = 5000  # optimizer updates
    learning_rate: NotNegative = 1e-3  # the peak, reached after warm-up
    warmup_iters: Count = 100  # iterations of linear warm-up; the first step is not zero
    lr_decay_iters: Size | None = None  # iteration at which the cosine reaches min_lr; None: max_iters
    min_lr: NotNegative | None = None  # learning rate at the end of the cosine; None: learning_rate / 10
    weight_decay: NotNegative = 0.1  # decoupled, on matrices and embeddings only
    beta1: Fraction = 0.9  # decay of the first moment; SGD's momentum
    beta2: Fraction = 0.99  # decay of the second moment; of Lion's momentum
    optimizer: Literal["adamw", "adam", "sgd", "lion"] = "adamw"  # weight decay is decoupled in adamw and lion
    grad_clip: NotNegative = 1.0  # largest global gradient norm; 0: no clipping

    # == gradient noise (noise.py) ==
    noise_schedule: Schedule = "exponential"  # how sigma falls from iteration to iteration
    noise_sigma: Strength = 0.0  # sigma_0, the sd at iteration 0 (all but inverse); 0: no noise
    noise_gamma: UpToOne = 0.99  # exponential: sigma_t = sigma_0 * gamma^t; plateau: at each failure to improve
    noise_eta: Strength = 0.0  # inverse: the variance is eta / (1 + t)^0.55
    noise_steps: Size | None = None  # linear, cosine: iterations until sigma is 0; None: max_iters
    plateau_interval: Size = 250  # plateau: iterations between the evaluations that steer it
    noise_distribution: Literal["gaussian", "uniform", "laplace"] = "gaussian"  # each of sd sigma_t
    noise_scale: Scale = "absolute"  # global: times the gradient's RMS; tensor: each its own
    noise_before_clip: bool = False  # True: added before clipping, not after
    noise_params: Params = "all"  # which parameters have it
    noise_anticorrelated: bool = False  # True: (xi_t - xi_(t-1)) / sqrt 2 in place of xi_t
    noise_target: Target = "gradient"  # what it is added to; second_moment_mean: only its mean
    reset_below_sigma: Strength = 0.0  # forget AdamW's moments when sigma first is under this; 0: never
    diagnose_interval: Count = 0  # iterations between measurements of what noise does to an update; 0: none

    # == noise in the weights of init_from, once, before the first step (NoisyTune) ==
    noisytune_lambda: Strength = 0.0  # W + U(-lambda/2, lambda/2) * std(W); its paper's is 0.15; 0: none
    noisytune_distribution: Literal["uniform", "gaussian"] = "uniform"  # of sd lambda * std(W) / sqrt 12
    noisytune_std: Literal["tensor", "global"] = "tensor"  # tensor: each one's own; global: one for all

    # == randomness ==
    seed: Count = 1  # initial weights, dropout and noise; data too unless data_seed is set
    data_seed: Count | None = None  # order of the batches; None: seed

    # == looking: none of these changes a weight ==
    eval_interval: Size = 250  # iterations between evaluations
    eval_tokens: Size = 262_144  # val tokens per evaluation, at most; the whole split at the end
    eval_train_tokens: Size = 65_536  # train tokens per evaluation, at most, in fixed windows
    log_interval: Size = 10  # iterations between log lines
    checkpoint_interval: Size = 500  # iterations between checkpoints
    sample_tokens: Count = 0  # length of the sample printed at the end, tokens; 0: none
    tensorboard: bool = False  # the log as TensorBoard's event files too, in the run folder
    wandb_log: bool = False  # the log to Weights & Biases too; WANDB_MODE=offline: into the run folder
    plot: bool = False  # draw the run's figures at the end, as `python plot.py RUN` does

    # == machine ==
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # float16: with a gradient scaler
    compile: Literal["auto", "on", "off", "graphs"] = "auto"  # auto: on CUDA only; graphs: in CUDA graphs too
    threads: Threads = 0  # CPU threads of each process; 0: PyTorch's choice. Restored on resume

    # == run folder ==
    out_dir: Name | None = None  # the run folder; None: out/<config files>/seed<seed>
    overwrite: bool = False  # True: begin afresh where a run lies already

    @property
    def tokens_per_iter(self):
        return self.batch_size * self.block_size * self.gradient_accumulation_steps

    @property
    def noisy(self):
        return self.noise_sigma > 0 or self.noise_eta > 0

    def check(self):
        check_together(self)


class Option(NamedTuple):
    """What an option's annotation says: the types that it takes, and within them the words or the Limits."""

    kinds: tuple
    choices: tuple = ()
    limits: Limits | None = None


def option_of(annotation):
    kind, none = typing.get_args(annotation | None)
    if typing.get_origin(kind) is Literal:
        return Option((str,), typing.get_args(kind))
    kinds = getattr(kind, "__origin__", kind), *({none} & {*typing.get_args(annotation)})
    return Option(kinds, (), *getattr(kind, "__metadata__", ()))


@functools.cache
def options_of(kind):
    """{name: Option}."""
    return {name: option_of(hint) for name, hint in typing.get_type_hints(kind, include_extras=True).items()}


def kind_of(options):
    """The kind that some options are of: texts are classified where they name a task."""
    return kinds()["classify" if "task" in options else "train"]


def kinds():
    """{program: the kind of its options}."""
    from config._classify import Classify  # which is made of what is here

    return {kind.program: kind for kind in (Config, Classify)}


OPTIONS = options_of(Config)
ALIASES = {  # options' earlier names, which old records and command lines have
    "noise_draw": "noise_distribution",
    "noise_point": "noise_target",
    "noise_where": "noise_params",
    "noisytune_draw": "noisytune_distribution",
}
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
    **dict.fromkeys(("epochs", "num_train_epochs"), "use --max_iters; a run says how many passes it makes"),
    **dict.fromkeys(("model_name_or_path", "model_name"), "use --model"),
    **dict.fromkeys(("train_file", "task_name"), "use --task"),
    "validation_file": "use --val_file",
    "max_seq_length": "use --max_length",
    "per_device_train_batch_size": "use --batch_size",
}
NANOGPT_FILES = {"train_shakespeare_char": "shakespeare_baseline"}  # its configs, and ours of the same kind

# What two runs may differ in and still be one run: cadence, logging, place and machine. Not eval_tokens
# and eval_train_tokens: they change no weight, but what a logged loss is the mean of.
NOT_IDENTITY = {
    *("eval_interval", "log_interval", "checkpoint_interval", "sample_tokens", "plot"),
    *("tensorboard", "wandb_log"),
    *("device", "compile", "threads", "out_dir", "overwrite", "keep_weights"),
}


def identity(config):
    """The options, as a dict, that make two runs the same run.

    The derived defaults are filled in, so that data_seed=None and data_seed=seed are one.
    """
    options = dataclasses.asdict(config)
    filled = {name: value for name, value in derived(options).items() if options[name] is None}
    return {name: value for name, value in (options | filled).items() if name not in NOT_IDENTITY}


def recorded(options, where="a config.json"):
    """The Config that a config.json tells of. Options that it does not know yet are as they were before there
    was a choice. UserError for one that there is no more, and for a value that it cannot have.

    where: names the file.
    """
    if not isinstance(options, dict):
        raise UserError(f"{where} holds {shown(options)} where the options should be")
    kind = kind_of(options)
    options = (BEFORE if kind is Config else {}) | today(options)
    if gone := options.keys() - options_of(kind).keys():
        raise UserError(
            f"{where} has the option {min(gone)!r}, which this version does not have:"
            " read its run with the version that trained it"
        )
    return kind(**checked(options, where, kind))


def today(options):
    """Options under the names that they have now."""
    return {ALIASES.get(name, name): value for name, value in options.items()}


def derived(options):
    """What the options that default to None stand for, by name."""
    known = {
        "data_seed": options["seed"],
        "lr_decay_iters": options["max_iters"],
        "min_lr": options["learning_rate"] / 10,
        "noise_steps": options["max_iters"],
    }
    return {name: value for name, value in known.items() if name in options}


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
    """Answer --help, and a mistake in the command line of a run, and exit. In several processes it is left to
    one of them, once they have met. Threads are told how long to spin."""
    spin_less()
    if "RANK" not in os.environ and ({"--help", "-h"} & {*argv} or is_mistaken(argv, kind)):
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
    """Options by the names that they have now, each checked alone; a function is left as it is."""
    options = today(options)
    known_options(options, where, kind)
    return {
        name: value if callable(value) else check_value(name, value, where, kind)
        for name, value in options.items()
    }


def config_path(word):
    """The file that a user named, seen from the working folder or else from the repository's root."""
    path = user_path(word)
    return inside if not path.is_file() and (inside := ROOT / path).is_file() else path


def run_file(path, kind="config file"):
    """What a file of plain Python assigns: {name: value}, without what is the file's own."""
    if not path.is_file():
        raise UserError(f"no {kind} {path}{similar_file(path.stem, kind)}")
    try:
        names = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        passed = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(path)]
        line = getattr(error, "lineno", None) or (passed or [0])[-1]
        raise UserError(f"{path}, line {line}: {type(error).__name__}: {error}") from None
    return {
        name: value
        for name, value in names.items()
        if not (name.startswith("_") or isinstance(value, types.ModuleType) or callable(value))
    }


def similar_file(stem, kind):
    """The repository's own file whose name is most like a stem, as a hint."""
    files = (ROOT / "config" / ("study" if kind == "study file" else "")).glob("[a-z]*.py")
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
            known_options([ALIASES.get(name, name)], "the command line", kind)
        example = f"--{name}={value or getattr(kind, name)}" if name in options_of(kind) else "--seed=2"
        raise UserError(f"{word} is no option; options are written --key=value, for instance {example}")
    name, text = match.groups()
    name = ALIASES.get(name, name)
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
        hint = "; ".join(dict.fromkeys(ELSEWHERE[name] for name in strange if name in ELSEWHERE))
        near = did_you_mean(strange[0], options_of(kind)) if len(strange) == 1 else ""
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
        raise UserError(f"{where}: {name} must be {wanted}, not {shown(value)}")
    if choices and value not in choices:
        near = did_you_mean(value, choices)
        raise UserError(f"{where}: {name}={shown(value)} is none of {', '.join(choices)}{near}")
    if limits and value is not None and not limits.hold(value):
        raise UserError(f"{where}: {name}={shown(value)} cannot be: it is {limits.words}")
    return value


def check_together(c):
    """UserError where options of a Config, the derived ones filled in, contradict each other."""
    target, inverse = c.noise_target, c.noise_schedule == "inverse"
    if c.n_embd % c.n_head:
        raise UserError(f"n_embd={c.n_embd} is not a multiple of n_head={c.n_head}")
    if c.min_lr > c.learning_rate:
        mend = "lower it too, or leave it to --min_lr=None, a tenth of the learning rate"
        raise UserError(f"min_lr={c.min_lr} is above learning_rate={c.learning_rate}: {mend}")
    if c.warmup_iters > c.lr_decay_iters:
        mend = f"lr_decay_iters={c.lr_decay_iters} (which is max_iters unless it is set): warm up for less"
        raise UserError(f"warmup_iters={c.warmup_iters} is beyond {mend}")
    if target != "gradient" and c.noise_before_clip:
        raise UserError(f"noise_target={target!r} does not combine with noise_before_clip: leave that out")
    if (target not in ("gradient", "weights") or c.reset_below_sigma) and c.optimizer != "adamw":
        raise UserError(f"noise_target={target!r} and reset_below_sigma need the moments of optimizer='adamw'")
    if ("moment" in target or "direction" in target) and 0 in (c.beta1, c.beta2):
        raise UserError(f"noise_target={target!r} needs beta1 and beta2 above 0, not {c.beta1} and {c.beta2}")
    whole = target in ("weights", "learning_rate") or "direction" in target
    if whole and (c.noise_scale, c.noise_params) != ("absolute", "all"):
        raise UserError(f"noise_target={target!r} needs noise_scale='absolute' and noise_params='all'")
    if c.diagnose_interval and (c.optimizer in ("sgd", "lion") or c.noise_before_clip or c.batch_size < 2):
        raise UserError("diagnose_interval needs adamw or adam, noise after clipping, and a batch_size above 1")
    if c.reset_below_sigma and "direction" in target:
        raise UserError(f"noise_target={target!r} keeps moments of its own: leave reset_below_sigma out")
    if c.compile == "graphs" and c.gradient_accumulation_steps > 1:
        raise UserError("compile='graphs' needs gradient_accumulation_steps=1: use compile='on'")
    if c.reset_below_sigma and c.noise_schedule == "plateau":
        raise UserError(
            "reset_below_sigma needs a sigma that follows from the step: no noise_schedule='plateau'"
        )
    if inverse and (c.noise_sigma or not c.noise_eta):
        raise UserError("noise_schedule='inverse' takes a variance, as --noise_eta=0.01, and noise_sigma=0")
    if c.noise_eta and not inverse:
        raise UserError(f"noise_eta={c.noise_eta} needs noise_schedule='inverse', not {c.noise_schedule!r}")
    if c.noisytune_lambda and c.init_from is None:
        raise UserError("noisytune_lambda perturbs pretrained weights: name them by --init_from")
    if c.init_from is not None and (c.init_scale, c.init_noise) != (1, 0):
        raise UserError("init_scale and init_noise change fresh weights: leave them out, or init_from")
    if c.init_from is not None and not c.init_from.strip():
        raise UserError("init_from is empty: name a run folder, or leave it out for fresh weights")
    if c.init_from and place(c.init_from) == place(c.out_dir):
        raise UserError(f"init_from={c.init_from!r} is the run's own folder: choose another --out_dir")


def place(path):
    return user_path(path).resolve()


def source_wanted(init_from):
    """What there is to do about an init_from that is not there, in words."""
    if init_from == "resume":
        return "a run that was stopped goes on by its own command, without init_from"
    if re.fullmatch(r"(out/)?gpt2(-\w+)?", init_from):
        return "download GPT-2 into out/gpt2 first (docs/runs.md says how) and name that folder"
    if "pretrain" in init_from:
        return "train it first, by python train.py config/pretrain_text8_small.py"
    return "name a run's folder, or one in the Hugging Face GPT-2 format"


def differences(config):
    """{option: value} where a Config differs from the defaults, the derived ones left out."""
    return {
        name: value
        for name, value in vars(config).items()
        if value != getattr(type(config), name)
        and value != derived(vars(config)).get(name)
        and name != "out_dir"
    }


def help_text(kind=Config):
    """Every option with its default, its comment and its choices, from the source of its kind itself."""
    lines = [f"python {kind.command} [CONFIG_FILE ...] [--key=value ...]", ""]
    lines += ["Defaults, then the files in order, then the command line; the later wins."]
    for line in inspect.getsource(kind).splitlines():
        if group := re.fullmatch(r"\s+# == (.*) ==", line):
            lines += ["", group[1]]
        elif field := re.fullmatch(r"\s+(\w+): [^=]+ = (.+?)  # (.*)", line):
            name, default, comment = field.groups()
            lines.append(f"  --{name + '=' + default:<38} {comment}")
            if choices := options_of(kind)[name].choices:
                lines.append(f"{'':43}{', '.join(choices)}")
    return "\n".join(lines)
