"""A run in memory, and one iteration of it: the method.

The order of an iteration is the paper's: accumulate, average over processes, unscale, clip, noise, update.
"""

import collections
import functools
import math

import torch

from model import GPT, GPTConfig, group_of
from noise import (
    GradientNoise,
    MatchedWarmup,
    create_moments,
    noisytune_,
    reset_moments,
    schedule,
    stream_seed,
)
from training.diagnosis import Diagnosis, batch_noise_norm
from training.distributed import Ending, OneProcess
from training.evaluate import eagerly, mean_loss
from training.pretrained import carry_over
from training.terminal import Meter

MOMENTS = ("first_moment", "second_moment", "second_moment_mean")  # noise points that are in AdamW's state


class Diverged(Ending):
    """The loss, or without a scaler the gradient, is not finite."""

    def __init__(self, iteration):
        super().__init__(iteration)
        self.iteration = iteration


class Training:
    """One run in memory: what it computes with, and how far it has come.

    start: what run.json tells of the weights that init_from gave it, None where they are fresh.
    pretrained: those weights, before NoisyTune, by name; None where there are none.
    step: updates done; saved: those in last.pt. best: the lowest val loss so far, and its iteration; best.pt is
    the same on disk.
    trace: (max_iters, 4) on the device, a row an iteration: mini-batch loss, gradient norm before clipping,
    noise norm, factor of the learning rate; so that nothing is fetched from the device between log lines.
    """

    def __init__(self, config, corpus, machine, source=None, ranks=None):
        machine.apply()
        self.config, self.corpus, self.machine = config, corpus, machine
        self.ranks = ranks or OneProcess()
        self.model, self.start = starting_model(config, corpus, machine.device, source)
        self.pretrained = copied(self.model) if source else None
        if source:
            perturb(config, self.model)
        self.scaler = machine.scaler()
        self.optimizer = make_optimizer(config, self.model, self.scaler.is_enabled())
        self.noise = gradient_noise(config, self.model)
        matched = config.noise_target == "learning_rate"
        self.warmup = MatchedWarmup(self.noise.sigma, config.beta2, machine.device) if matched else None
        if config.noise_target in MOMENTS:
            create_moments(self.optimizer)
        self.diagnosis = Diagnosis(self.optimizer) if config.diagnose_interval else None
        self.measured = None  # by the last step that was to be diagnosed
        self.step, self.checked, self.saved = 0, 0, None
        self.best = {"val_loss": math.inf, "iter": None}
        self.meter = Meter(config.tokens_per_iter)
        self.trace = torch.full((config.max_iters, 4), math.nan, device=machine.device)

    def state(self):
        """Everything that a resume needs beside best.pt."""
        return {
            "model": self.model.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.meter.seconds(),
            "trace": self.trace[: self.step],
            "plateau": vars(self.noise.sigma) if self.config.noise_schedule == "plateau" else None,
            "warmup": self.warmup.state if self.warmup else None,
            "diagnosis": self.diagnosis.state() if self.diagnosis else None,
        }

    def restore(self, state):
        self.model.load_state_dict(state["model"]["state"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = self.checked = self.saved = state["step"]
        self.meter.seconds_before = state["seconds"]
        self.trace[: self.step] = state["trace"]
        if self.config.noise_schedule == "plateau":
            vars(self.noise.sigma).update(state["plateau"])
        if self.warmup:
            self.warmup.state.copy_(state["warmup"])
        if self.diagnosis:
            self.diagnosis.restore(state["diagnosis"])

    def check_finite(self):
        """Raise Diverged at the first iteration since the last check whose loss is not finite.

        A gradient that is not finite is the scaler's to skip; without one it has spoilt the weights.
        """
        columns = 1 if self.scaler.is_enabled() else 2
        bad = ~self.trace[self.checked : self.step, :columns].isfinite().all(dim=1)
        if bad.any():
            raise Diverged(self.checked + int(bad.nonzero()[0]))
        self.checked = self.step

    def skipped_steps(self):
        """Iterations whose update the scaler skipped, because a gradient was not finite."""
        return int((~self.trace[: self.step, 1].isfinite()).sum()) if self.scaler.is_enabled() else 0


def starting_model(config, corpus, device, source=None):
    """(the model that the run starts from, start.py's record of its source or None)."""
    model = GPT.create(model_config(config, corpus), stream_seed(config.seed, "init"), device)
    return model, carry_over(source, model, corpus.meta) if source else None


def perturb(config, model):
    """NoisyTune, where it is on."""
    if config.noisytune_lambda:
        how = {"draw": config.noisytune_distribution, "std": config.noisytune_std}
        noisytune_(model, config.noisytune_lambda, config.seed, **how)


def copied(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def moved(t):
    """How far the weights are from the pretrained ones: {group: mean of |W - W_0| over its elements}.

    The L1 distance by element, for the groups of model.py and for all of them.
    """
    sums, counts = collections.Counter(), collections.Counter()
    for name, parameter in t.model.named_parameters():
        wide = torch.float32 if parameter.device.type == "mps" else torch.float64  # which Apple's GPUs lack
        distance = (parameter - t.pretrained[name]).abs().sum(dtype=wide).item()
        for group in (group_of(name), "all"):
            sums[group] += distance
            counts[group] += parameter.numel()
    return {group: sums[group] / counts[group] for group in sums}


def model_config(config, corpus):
    names = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
    return GPTConfig(corpus.meta["vocab_size"], **{name: getattr(config, name) for name in names})


def gradient_noise(config, model):
    sigma = schedule(
        config.noise_schedule,
        sigma=config.noise_sigma,
        gamma=config.noise_gamma,
        eta=config.noise_eta,
        steps=config.noise_steps,
    )
    return GradientNoise(
        model.named_parameters(),
        sigma,
        config.seed,
        draw=config.noise_distribution,
        scale=config.noise_scale,
        where=chosen_by(config),
        anticorrelated=config.noise_anticorrelated,
    )


def chosen_by(config):
    """(name, parameter) -> whether noise_params chooses it. A tied head is its embedding."""
    block = {"first_block": "blocks.0.", "last_block": f"blocks.{config.n_layer - 1}."}.get(config.noise_params)
    if block:
        return lambda name, _: name.startswith(block)
    return lambda name, _: config.noise_params in ("all", group_of(name))


def make_optimizer(config, model, scaled=False):
    """The stock optimizer. Weight decay is decoupled in AdamW alone; momentum is beta1 in SGD.

    PyTorch's fused SGD keeps an uninitialised momentum where the scaler skips its first step: not for float16.
    """
    groups = model.parameter_groups(0.0 if config.noise_target == "learning_rate" else config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.beta1, fused=not scaled)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def train_step(t):
    """One iteration. The order is the method: accumulate, average, unscale, clip, noise, update.

    Every rank adds the same noise to the same gradient, and so all keep the same weights. Averaged while
    it is still scaled, a gradient that is infinite on one rank is so on all, and all skip the update.
    """
    config = t.config
    for group in t.optimizer.param_groups:
        group["lr"] = learning_rate(t.step, config)
    own_noise = own_noise_norm(t) if diagnosed(t) else None
    reset_when_due(t)
    loss = accumulate(t)
    t.ranks.average_([loss, *(parameter.grad for parameter in t.model.parameters())])
    t.scaler.unscale_(t.optimizer)  # also without clipping, or the scaler would divide the noise too
    if config.noise_before_clip:
        noise_norm = t.noise.add_(t.step)
    grad_norm = clip(t.model, config.grad_clip)
    if t.diagnosis:
        t.diagnosis.observe(grad_norm.isfinite())
    if not config.noise_before_clip:
        noise_norm = add_noise(t, grad_norm)
    factor = matched_warmup(t, grad_norm) if t.warmup else torch.ones_like(loss)
    t.scaler.step(t.optimizer)
    t.scaler.update()
    if config.noise_target == "weights":
        noise_norm = t.noise.add_to_weights_(t.step, learning_rate(t.step, config), grad_norm.isfinite())
    if own_noise is not None:
        own_noise = own_noise * clipped_norm(grad_norm, config) / grad_norm
        into_weights = noise_norm if config.noise_target == "weights" else 0.0
        t.measured = t.diagnosis.measure(factor, into_weights)
        t.measured |= {"own_noise_norm": own_noise, "noise_ratio": noise_norm / own_noise}
    t.optimizer.zero_grad(set_to_none=True)
    t.trace[t.step] = torch.stack((loss, grad_norm, noise_norm, factor))
    t.step += 1


def diagnosed(t):
    """Whether the coming step is one to measure."""
    return t.diagnosis is not None and t.step % t.config.diagnose_interval == 0


def own_noise_norm(t):
    """The norm of the gradient's own noise at this step, before clipping, from the halves of its first
    micro-step; over the root of the micro-steps, whose mean it is."""
    config, half = t.config, t.config.batch_size // 2
    x, y = batch(t, 0)

    def loss_of(rows):
        with t.machine.autocast():
            return t.scaler.scale(t.model(x[rows], y[rows])[1])

    torch.manual_seed(stream_seed(config.seed, "dropout", t.step, 0))
    halves = [functools.partial(loss_of, slice(0, half)), functools.partial(loss_of, slice(half, 2 * half))]
    with eagerly(t.model):  # compiled blocks are not to meet half a batch
        norm = batch_noise_norm(halves, list(t.model.parameters()))
    return norm / t.scaler.scale(torch.ones_like(norm)) / math.sqrt(config.gradient_accumulation_steps)


def reset_when_due(t):
    """Forget the moments, and the diagnosis' own, before the first step whose sigma is under the threshold."""
    threshold = t.config.reset_below_sigma
    if threshold and t.step and t.noise.sigma(t.step) < threshold <= t.noise.sigma(t.step - 1):
        reset_moments(t.optimizer)
        if t.diagnosis:
            t.diagnosis.reset()


def add_noise(t, grad_norm):
    """The noise of this iteration, to where noise_target says; returns its norm. The controls are noise.py's."""
    config = t.config
    if config.noise_target == "gradient":
        return t.noise.add_(t.step)
    if config.noise_target in MOMENTS:
        return t.noise.add_to_moments_(t.step, t.optimizer, config.noise_target, grad_norm.isfinite())
    return torch.zeros_like(grad_norm)


def matched_warmup(t, grad_norm):
    """Multiply the learning rate, but not the weight decay, by noise.py's factor; returns the factor."""
    config = t.config
    mean_square = clipped_norm(grad_norm, config).square() / t.model.parameter_count()
    factor = t.warmup.factor(t.step, mean_square, grad_norm.isfinite())
    rate = learning_rate(t.step, config)
    for group in t.optimizer.param_groups:
        group["lr"] = rate * factor
    decaying = [parameter for parameter in t.model.parameters() if parameter.dim() >= 2]
    kept = torch.where(grad_norm.isfinite(), 1 - rate * config.weight_decay, 1.0)
    with torch.no_grad():
        torch._foreach_mul_(decaying, kept)
    return factor


def clipped_norm(grad_norm, config):
    return grad_norm.clamp(max=config.grad_clip) if config.grad_clip else grad_norm


def accumulate(t):
    """The mean loss of this iteration's micro-steps over this rank's rows, and its gradient.

    Dropout is a function of the step and the rank; rank 0 draws what a run in one process does.
    """
    config, loss = t.config, 0.0
    rows, other_rank = t.ranks.rows(config.batch_size), [t.ranks.rank] if t.ranks.rank else []
    for micro_step in range(config.gradient_accumulation_steps):
        x, y = (part[rows] for part in batch(t, micro_step))
        if config.dropout:
            torch.manual_seed(stream_seed(config.seed, "dropout", t.step, micro_step, *other_rank))
        with t.machine.autocast():
            part = t.model(x, y)[1] / config.gradient_accumulation_steps
        t.scaler.scale(part).backward()
        loss += part.detach()
    return loss


def batch(t, micro_step):
    """Inputs and targets of all ranks, each (batch_size, block_size); the inputs noised where that is asked."""
    config = t.config
    seed = stream_seed(config.data_seed, "data", t.step, micro_step)
    x, y = t.corpus.batch(seed, config.batch_size, config.block_size)
    if config.input_noise:
        seed = stream_seed(config.seed, "input", t.step, micro_step)
        x = t.corpus.noised(x, seed, config.input_noise)
    return x, y


def clip(model, largest):
    """Clip the gradients to a global norm, 0 for not at all; returns the norm they had."""
    gradients = [parameter.grad for parameter in model.parameters()]
    norm = torch.nn.utils.get_total_norm(gradients)
    if largest:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), largest, norm)
    return norm


def learning_rate(step, config):
    """Linear warm-up from learning_rate / (warmup_iters + 1), then a cosine down to min_lr."""
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if step >= config.lr_decay_iters:
        return config.min_lr
    progress = (step - config.warmup_iters) / (config.lr_decay_iters - config.warmup_iters)
    return config.min_lr + (config.learning_rate - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def val_loss(t):
    """Over the fixed windows of the val split, eval_tokens at most."""
    return mean_loss(t.model, t.corpus.windows("val", t.config.block_size, t.config.eval_tokens))


def train_loss(t):
    """Dropout off, over fixed windows of the train split."""
    return mean_loss(t.model, t.corpus.windows("train", t.config.block_size, t.config.eval_train_tokens))
