"""A run in memory: its model, optimizer, noise and corpus, how far it has come, and the state for a resume."""

import collections
import functools
import math

import torch

from model import GPT, GPTConfig
from noise import GradientNoise, noisytune_, schedule, stream_seed
from training import operators as ops
from training.controls import Control
from training.distributed import Ending, SingleProcess
from training.lion import Lion
from training.pretrained import carry_over, describe
from training.terminal import Meter


class Diverged(Ending):
    """The loss is not finite; or the gradient, without a scaler or for so long that the scale has come to 0."""

    def __init__(self, iteration):
        super().__init__(iteration)
        self.iteration = iteration


class Trained:
    """What a run of every program has, which training/lifecycle.py relies on: config, corpus, machine, ranks,
    model, optimizer, scaler, noise, and

    packages: those beside PyTorch whose versions its results may depend on.
    source_record: run.json's record of the weights that it started from; None where they are fresh.
    pretrained: those weights, before NoisyTune, by name, as start.pt has them; None where there is none.
    step: updates done; saved: those in last.pt; checked: those whose loss is known to be finite.
    best: the lowest val loss so far, and its iteration; best.pt is the same on disk.
    history: (max_iters, 3) on the device, a row an iteration: mini-batch loss, gradient norm before clipping,
        noise norm (NaN where it is not logged); nothing is fetched from the device between log lines.
    """

    packages = ()

    def count_from_0(self):
        self.step, self.checked, self.saved = 0, 0, None
        self.best = {"val_loss": math.inf, "iter": None}
        self.meter = Meter(self.config.tokens_per_iter)
        self.history = new_history(self.config.max_iters, self.machine.device)

    def parameter_count(self):
        return sum(parameter.numel() for parameter in self.model.parameters())

    def is_logged(self, step):
        return step % self.config.log_interval == 0 or step + 1 == self.config.max_iters

    def state(self):
        """Everything that a resume needs beside best.pt."""
        return {
            "model": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.meter.seconds(),
            "history": self.history[: self.step].clone(),  # of a view all of its storage would be saved
        }

    def restore(self, state):
        self.model.load_state_dict(state["model"]["state"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = self.checked = self.saved = state["step"]
        self.meter.seconds_before = state["seconds"]
        history = state["history"]
        if history.shape != (self.step, 3):
            raise ValueError("its history is of another length")
        self.history[: self.step] = history

    def check_finite(self):
        """Raise Diverged at the first iteration since the last check whose loss is not finite.

        A gradient that is not finite is the scaler's to skip; without one it has spoilt the weights. Each skip
        halves the scale. Once that is 0, every step will be skipped.
        """
        columns = 1 if self.scaler.is_enabled() else 2
        bad = ~self.history[self.checked : self.step, :columns].isfinite().all(dim=1)
        if bad.any():
            raise Diverged(self.checked + int(bad.nonzero()[0]))
        if self.scaler.is_enabled() and self.scaler.get_scale() == 0:
            raise Diverged(self.step - 1)
        self.checked = self.step

    def skipped_steps(self):
        """Iterations whose update the scaler skipped, because a gradient was not finite."""
        return int((~self.history[: self.step, 1].isfinite()).sum()) if self.scaler.is_enabled() else 0


class Run(Trained):
    """One run of train.py in memory."""

    def __init__(self, config, corpus, machine, source=None, ranks=None):
        machine.apply()
        self.config, self.corpus, self.machine = config, corpus, machine
        self.ranks = ranks or SingleProcess()
        self.model = new_model(config, corpus, machine.device)
        self.source_record = carry_over(source, self.model, corpus.meta) if source else None
        self.pretrained = copied(self.model) if source else None
        if source and config.noisytune_lambda:
            perturb_(self.model.parameters(), config)
        self.scaler = machine.scaler()
        self.optimizer = make_optimizer(config, self.model, self.scaler.is_enabled())
        self.noise = gradient_noise(config, self.model, chosen_by(config))
        self.control = Control(self)
        self.count_from_0()

    def batch(self, micro_step):
        """Inputs and targets of all ranks, each (batch_size, block_size); symbols replaced by option
        input_noise."""
        config = self.config
        seed = stream_seed(config.data_seed, "data", self.step, micro_step)
        x, y = self.corpus.batch(seed, config.batch_size, config.block_size)
        if config.input_noise:
            seed = stream_seed(config.seed, "input", self.step, micro_step)
            x = self.corpus.noised(x, seed, config.input_noise)
        return x, y

    def weights(self):
        return self.model.weights()

    def describe_source(self):
        return describe(self.source_record) if self.source_record else None

    def state(self):
        plateau = vars(self.noise.sigma) if self.config.noise_schedule == "plateau" else None
        return {**super().state(), "plateau": plateau, **self.control.state()}

    def restore(self, state):
        super().restore(state)
        if self.config.noise_schedule == "plateau":
            vars(self.noise.sigma).update(state["plateau"])
        self.control.restore(state)

    def distances(self):
        """{kind of event: mean_distance}: "distance" from the pretrained weights, "update" from those that
        training began with, after NoisyTune; nothing where there are none."""
        if not self.pretrained:
            return {}
        begun = self.start if self.config.noisytune_lambda else self.pretrained
        origins = {"distance": self.pretrained, "update": begun}
        return {kind: mean_distance(self.model, origin, groups_of) for kind, origin in origins.items()}

    @functools.cached_property
    def start(self):
        """The pretrained weights after NoisyTune, by name."""
        weights = {name: self.pretrained[name].clone() for name, _ in self.model.named_parameters()}
        perturb_(weights.values(), self.config)
        return weights


@torch.no_grad()
def mean_distance(model, origin, groups):
    """{group: mean of |W - W_0| over its elements}, W_0 of `origin` by name; groups: those of a name."""
    sums, counts = collections.Counter(), collections.Counter()
    for name, parameter in model.named_parameters():
        wide = torch.float32 if parameter.device.type == "mps" else torch.float64  # which Apple's GPUs lack
        distance = (parameter - origin[name]).abs().sum(dtype=wide).item()
        for group in groups(name):
            sums[group] += distance
            counts[group] += parameter.numel()
    return {group: sums[group] / counts[group] for group in sums}


def perturb_(parameters, config):
    """NoisyTune, in some tensors, in their order."""
    how = {"distribution": config.noisytune_distribution, "std": config.noisytune_std}
    noisytune_(torch.nn.ParameterList(parameters), config.noisytune_lambda, config.seed, **how)


def new_history(length, device):
    return torch.full((length, 3), math.nan, device=device)


def new_model(config, corpus, device):
    """A model with the weights that a run of this config begins with where it starts from no other's."""
    model = GPT.create(model_config(config, corpus), stream_seed(config.seed, "init"), device)
    widen_(model, config)
    return model


def model_config(config, corpus):
    names = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias", "activation")
    return GPTConfig(corpus.meta["vocab_size"], **{name: getattr(config, name) for name in names})


@torch.no_grad()
def widen_(model, config):
    """Options init_scale and init_noise: fresh matrices times a factor, and Gaussian noise on all weights,
    those of norms too. It is drawn on the CPU, for the same bits on every device."""
    generator = torch.Generator().manual_seed(stream_seed(config.seed, "init_noise"))
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.mul_(config.init_scale)
        if config.init_noise:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter.device), alpha=config.init_noise)


def copied(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def make_optimizer(config, model, scaled=False):
    """The optimizer, PyTorch's own but for Lion. Weight decay is decoupled in AdamW and Lion; SGD's momentum is
    beta1.

    scaled: whether a gradient scaler is used. PyTorch's fused SGD leaves its momentum uninitialized where the
    scaler skips its first step.
    """
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.beta1, fused=not scaled)
    if config.optimizer == "lion":
        return Lion(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def parameter_groups(model, weight_decay):
    """AdamW's groups: matrices and embeddings decay, norms and biases do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def gradient_noise(config, model, where):
    options = {name: value for name, value in vars(config).items() if name.startswith("noise_")}
    constants = {name.removeprefix("noise_"): value for name, value in options.items()}
    return GradientNoise(
        model.named_parameters(),
        schedule(config.noise_schedule, **constants),
        config.seed,
        distribution=config.noise_distribution,
        scale=config.noise_scale,
        where=where,
        anticorrelated=config.noise_anticorrelated,
    )


def chosen_by(config):
    """(name, parameter) -> whether option noise_params chooses it. The tied head is the embedding."""
    block = {"first_block": "blocks.0.", "last_block": f"blocks.{config.n_layer - 1}."}.get(config.noise_params)
    if block:
        return lambda name, _: name.startswith(block)
    return lambda name, _: config.noise_params in ("all", group_of(name))


def group_of(name):
    """The group of a GPT's parameter, by its name: embeddings (the head is one), attention, mlp or norms."""
    parts = name.split(".")
    if parts[0] in ("wte", "wpe"):
        return "embeddings"
    return "attention" if "attn" in parts else "mlp" if "mlp" in parts else "norms"


def groups_of(name):
    """What a parameter's distance counts to."""
    return group_of(name), "all"


def compile_model(model, how):
    """Have the model compiled as a whole at its next call. how: "on"; "graphs", captured in CUDA graphs too; or
    "off", which undoes it. A break in the graph is an error."""
    model._compiled_call_impl = None
    model.compiled = how != "off"
    if model.compiled:
        torch.compiler.assume_constant_result(ops.has_instructions)  # or the graph would break at each product
        model.compile(fullgraph=True, mode="reduce-overhead" if how == "graphs" else None)
