"""Every option of train.py: one frozen dataclass, its checks, and which of them make two runs one. No torch.

`kind` is this dataclass, or Classify of training.classify (_classify.py).
"""

import dataclasses
import functools
import inspect
import re
import typing
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from config._command import PATH, UserError, can_be_path, user_path


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
    str,
    Limits(
        lambda x: re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?|mps", x),
        "auto, cpu, cuda, cuda:N or mps",
    ),
]
Schedule = Literal["exponential", "linear", "cosine", "constant", "inverse", "plateau"]
WITHOUT_STEPS = ("exponential", "constant", "inverse", "plateau")  # schedules that do not end at noise_steps
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
    if target not in ("gradient", "weights") and c.optimizer != "adamw":
        raise UserError(f"noise_target={target!r} needs optimizer='adamw', not {c.optimizer!r}")
    if c.reset_below_sigma and c.optimizer != "adamw":
        raise UserError(f"reset_below_sigma needs optimizer='adamw', not {c.optimizer!r}")
    if ("moment" in target or "direction" in target) and 0 in (c.beta1, c.beta2):
        raise UserError(f"noise_target={target!r} needs beta1 and beta2 above 0, not {c.beta1} and {c.beta2}")
    whole = target in ("weights", "learning_rate") or "direction" in target
    if whole and (c.noise_scale, c.noise_params) != ("absolute", "all"):
        raise UserError(f"noise_target={target!r} needs noise_scale='absolute' and noise_params='all'")
    if c.diagnose_interval and (c.optimizer in ("sgd", "lion") or c.noise_before_clip or c.batch_size < 2):
        raise UserError("diagnose_interval needs adamw or adam, noise after clipping, and a batch_size above 1")
    if c.reset_below_sigma and (target == "learning_rate" or "direction" in target):
        raise UserError(f"noise_target={target!r} keeps moments of its own: leave reset_below_sigma out")
    if c.compile == "graphs" and c.gradient_accumulation_steps > 1:
        raise UserError("compile='graphs' needs gradient_accumulation_steps=1: use compile='on'")
    if c.reset_below_sigma and c.noise_schedule == "plateau":
        raise UserError(
            "reset_below_sigma needs a sigma that follows from the step: no noise_schedule='plateau'"
        )
    check_noise_steps(c)
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


def check_noise_steps(c):
    if c.noisy and c.noise_steps != c.max_iters and c.noise_schedule in WITHOUT_STEPS:
        raise UserError(
            f"noise_steps={c.noise_steps}: noise_schedule={c.noise_schedule!r} has none, leave it out"
        )


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


OPTIONS = options_of(Config)
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


def unlike(here, there):
    """{option: (its value there, here)} where two dicts of options differ; `task` alone where one is of
    training.classify and the other of train.py."""
    names = here if here.keys() == there.keys() else ["task"]
    return {name: (there.get(name), here.get(name)) for name in names if here.get(name) != there.get(name)}


def derived(options):
    """What the options that default to None stand for, by name."""
    known = {
        "data_seed": options["seed"],
        "lr_decay_iters": options["max_iters"],
        "min_lr": options["learning_rate"] / 10,
        "noise_steps": options["max_iters"],
    }
    return {name: value for name, value in known.items() if name in options}


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
