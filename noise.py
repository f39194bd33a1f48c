"""Gradient noise for any PyTorch loop. Needs nothing but torch: copy this one file.

    g~_t = g_t + sigma(t) * scale(g_t) * xi_t

Noise is three choices and one step. `sigma` is the amount at iteration t (a function in SCHEDULES, or your
own), a draw (DRAWS) gives xi_t, independent for every element, with mean 0 and sd 1, and a scale (SCALES) is
the unit of sigma. `GradientNoise.add_(t)` is the step, between clipping and `optimizer.step()`. There is no
state from one step to the next: xi_t is a function of (seed, t). POINTS names the other places to which noise
may be added, as controls. `noisytune_` is the noise in pretrained weights.
"""

import functools
import hashlib
import inspect
import math

import torch

# Under this sd nothing is drawn. A gradient of RMS 3e-4 (10.7 M parameters, norm 1) has a float32
# resolution of 3e-11, and AdamW's epsilon of 1e-8 is ten million times as large: noise of 1e-15 moves
# no weight by more than 1e-7 learning rates, even one whose gradient is zero.
SIGMA_FLOOR = 1e-15


# Schedules: the standard deviation sigma at iteration t = 0, 1, ..., in closed form.


def exponential(t, sigma, gamma):
    """sigma * gamma^t (the paper's)."""
    return sigma * gamma**t


def linear(t, sigma, steps):
    """sigma * max(0, 1 - t / steps)."""
    return sigma * max(0.0, 1 - t / steps)


def cosine(t, sigma, steps):
    """sigma * (1 + cos(pi * t / steps)) / 2 until t = steps, then 0."""
    return sigma * (1 + math.cos(math.pi * t / steps)) / 2 if t < steps else 0.0


def constant(t, sigma):
    """sigma at every t."""
    return sigma


def inverse(t, eta):
    """sqrt(eta / (1 + t)^0.55): eta is a *variance* (Neelakantan et al. 2015, arXiv:1511.06807)."""
    return math.sqrt(eta / (1 + t) ** 0.55)


class Plateau:
    """sigma * gamma^k, k the number of losses told by `observe` that were no new lowest one.

    The one schedule with a memory: its attributes, plain numbers, are to be saved with the run. After Yu et
    al., IEEE S&P 2019, whose decay is by a threshold of validation accuracy.
    """

    def __init__(self, sigma, gamma):
        self.sigma, self.gamma = sigma, gamma
        self.failures, self.best = 0, math.inf

    def __call__(self, t):
        return self.sigma * self.gamma**self.failures

    def observe(self, loss):
        """Count a loss that did not improve on the best one before it."""
        self.failures += loss >= self.best
        self.best = min(self.best, loss)


SCHEDULES = {f.__name__: f for f in (exponential, linear, cosine, constant, inverse)} | {"plateau": Plateau}


def schedule(name, **constants):
    """sigma(t) for a name in SCHEDULES: a function of the iteration alone, but for "plateau".

    constants: sigma, gamma, eta, steps; those that the schedule does not take are left aside, so that
    one set of knobs can drive them all.
    """
    if name == "plateau":
        return Plateau(constants["sigma"], constants["gamma"])
    function = SCHEDULES[name]
    takes = list(inspect.signature(function).parameters)[1:]
    return functools.partial(function, **{key: constants[key] for key in takes})


# Draws: fill a float tensor in place with independent values of mean 0 and sd 1.


def gaussian(out, generator):
    """N(0, 1)."""
    return out.normal_(generator=generator)


def uniform(out, generator):
    """U(-sqrt 3, sqrt 3)."""
    return out.uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)


def laplace(out, generator):
    """Laplace(0, 1 / sqrt 2): the difference of two unit exponentials -ln(1 - u), over sqrt 2.

    u is in [0, 1). It takes a second tensor meanwhile. PyTorch's own exponential_ takes its logarithms one at a
    time on a CPU.
    """
    other = torch.empty_like(out).uniform_(generator=generator).neg_().log1p_()
    return out.uniform_(generator=generator).neg_().log1p_().sub_(other).div_(math.sqrt(2))


DRAWS = {f.__name__: f for f in (gaussian, uniform, laplace)}


# Scales: what sigma is counted in. None for one; a 0-dim tensor for all; or a list, one for each.


def absolute(gradients):
    """sigma is the noise's own sd."""
    return None


def global_rms(gradients):
    """sigma is a multiple of ||g|| / sqrt N, over all the elements that get noise."""
    count = sum(gradient.numel() for gradient in gradients)
    return torch.nn.utils.get_total_norm(gradients) / math.sqrt(count)


def tensor_rms(gradients):
    """sigma is a multiple of each tensor's own ||g_p|| / sqrt n_p."""
    norms = torch._foreach_norm(gradients)
    return [norm / math.sqrt(gradient.numel()) for norm, gradient in zip(norms, gradients)]


SCALES = {"absolute": absolute, "global": global_rms, "tensor": tensor_rms}


# Where the noise of an iteration goes: the paper's place, and the controls that tell what it does there.
POINTS = ("gradient", "first_moment", "second_moment", "second_moment_mean", "weights", "learning_rate")


def stream_seed(seed, stream, *counters):
    """A 63-bit seed for one draw: a hash of the run's seed, the stream's name and the counters.

    Hashed, not added, so that (seed 1, step 1) and (seed 2, step 0) have nothing in common. The CPU's
    generator takes 32 of these bits: two of n draws there coincide with probability n^2 / 2^33, which
    is 0.3 % in 5,000 steps, and costs such a run one repeated draw.
    """
    text = repr((int(seed), str(stream), *map(int, counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class GradientNoise:
    """Add noise to gradients, once an iteration, between clipping and `optimizer.step()`.

    named_parameters: `model.named_parameters()`, all on one device; tied weights count once.
    sigma: iteration -> standard deviation, for instance schedule("exponential", sigma=0.1, gamma=0.99).
    seed: the run's seed. The draw of iteration t is a function of (seed, t), the order of the parameters
        and the device alone: resumes, ranks and other generators do not change it, nor it them.
    draw: a name in DRAWS. scale: a name in SCALES.
    where: (name, parameter) -> bool, which parameters get noise; by default all.
    anticorrelated: (xi_t - xi_(t-1)) / sqrt 2 in place of xi_t, of the same sd (Orvieto et al.,
        arXiv:2202.02831); it takes a second draw and a second buffer.

    With a gradient scaler call `scaler.unscale_(optimizer)` first, always: otherwise the scaler divides
    the noise by the loss scale. With gradient accumulation call it once, after the last micro-step.
    """

    def __init__(
        self, named_parameters, sigma, seed, draw="gaussian", scale="absolute", where=None, anticorrelated=False
    ):
        chosen = {
            id(parameter): parameter
            for name, parameter in named_parameters
            if parameter.requires_grad and (where is None or where(name, parameter))
        }
        self.parameters = list(chosen.values())
        if not self.parameters:
            raise ValueError("no trainable parameter was chosen to get noise")
        if len({parameter.device for parameter in self.parameters}) > 1:
            raise ValueError("the parameters lie on several devices: make one GradientNoise for each")
        self.sigma, self.seed, self.anticorrelated = sigma, seed, anticorrelated
        self.draw, self.scale = DRAWS[draw], SCALES[scale]
        self._buffer = self._before = self._views = None

    @torch.no_grad()
    def add_(self, step):
        """Add the noise of iteration `step` (from 0) to the gradients, in place.

        Returns the L2 norm of what was added: a 0-dim tensor on the gradients' device, not synchronised.
        A parameter without a gradient gets none; the others' noise does not depend on that. Where
        sigma(step) is under SIGMA_FLOOR nothing is drawn and no gradient is touched.
        """
        sigma = self.sigma_now(step)
        if not sigma:
            return self.nothing()
        _, gradients, noise = self.scaled(step)
        torch._foreach_add_(gradients, noise, alpha=sigma)
        return sigma * torch.nn.utils.get_total_norm(noise)

    @torch.no_grad()
    def add_to_moments_(self, step, optimizer, point, applies=None):
        """Give one moment of AdamW the noise of iteration `step`, the gradients left clean.

        Called in the place of `add_`, before the stock `optimizer.step()`, which then makes of
        the moment what it would have been had it seen the noisy gradient, and of the other what it is:

            first_moment         m += (1 - beta1) / beta1 * xi
            second_moment        v += (1 - beta2) / beta2 * ((g + xi)^2 - g^2)
            second_moment_mean   v += (1 - beta2) / beta2 * sigma^2, the mean of that; no draw

        applies: a 0-dim bool tensor; where it is false (a step that the scaler will skip), nothing changes.
        The moments must exist (create_moments), betas be above 0, and weight decay be decoupled. Returns
        the L2 norm of the noise that this stands for, as `add_` does.
        """
        sigma = self.sigma_now(step)
        if not sigma:
            return self.nothing()
        betas = {id(p): group["betas"] for group in optimizer.param_groups for p in group["params"]}
        draws = point != "second_moment_mean"
        parameters, gradients, noise = self.scaled(step, draws)
        torch._foreach_mul_(noise, sigma)
        norm = torch.nn.utils.get_total_norm(noise)
        for parameter, gradient, xi in zip(parameters, gradients, noise):
            state, (beta1, beta2) = optimizer.state[parameter], betas[id(parameter)]
            if point == "first_moment":
                change, moment, beta = xi, state["exp_avg"], beta1
            else:  # without a draw xi is sigma everywhere, and the mean of (g + xi)^2 - g^2 its square
                change, moment, beta = xi * (xi + 2 * gradient if draws else xi), state["exp_avg_sq"], beta2
            if applies is not None:
                change = change.masked_fill(~applies, 0.0)
            moment.add_(change, alpha=(1 - beta) / beta)
            if point == "second_moment":  # v' = beta2 v + (1 - beta2) g^2 must not round to below 0
                least = gradient.square() * ((1e-6 - 1) * (1 - beta) / beta)
                if applies is not None:
                    least.masked_fill_(~applies, 0.0)
                torch.maximum(moment, least, out=moment)
        return norm

    @torch.no_grad()
    def add_to_weights_(self, step, learning_rate, applies=None):
        """Add learning_rate * sigma * xi to the weights, after `optimizer.step()`: what plain SGD would have
        made of the noise, with no moment to go through. applies: as in add_to_moments_. Returns the L2 norm
        of sigma * xi."""
        sigma = self.sigma_now(step)
        if not sigma:
            return self.nothing()
        noise = self.unit(step)
        if applies is not None:
            torch._foreach_mul_(noise, applies.to(noise[0].dtype))
        torch._foreach_add_(self.parameters, noise, alpha=learning_rate * sigma)
        return sigma * torch.nn.utils.get_total_norm(noise)

    def sigma_now(self, step):
        """sigma(step), 0 where it is under the floor; the buffers are then given back."""
        sigma = self.sigma(step)
        if sigma >= SIGMA_FLOOR:
            return sigma
        self._buffer = self._before = self._views = None
        return 0.0

    def nothing(self):
        return torch.zeros((), device=self.parameters[0].device)

    def scaled(self, step, draws=True):
        """(parameters, their gradients, xi of this step times the scale), of those that have a gradient.

        draws: False gives the scale alone, in tensors of the same shapes.
        """
        noise = self.unit(step) if draws else [torch.ones_like(p) for p in self.parameters]
        found = [(p, p.grad, xi) for p, xi in zip(self.parameters, noise) if p.grad is not None]
        if not found:
            raise ValueError("no parameter has a gradient: call this after backward, before zero_grad")
        parameters, gradients, noise = [list(column) for column in zip(*found)]
        factor = self.scale(gradients)
        if factor is not None:
            torch._foreach_mul_(noise, factor)
        return parameters, gradients, noise

    def unit(self, step):
        """xi of iteration `step`: float32 tensors shaped as the parameters, views of one buffer.

        They hold until the next call. One draw fills the buffer, so that no two tensors share values.
        """
        buffer = self.drawn(step, self._buffer)
        if buffer is not self._buffer:
            pieces = buffer.split([parameter.numel() for parameter in self.parameters])
            self._views = [piece.view(parameter.shape) for piece, parameter in zip(pieces, self.parameters)]
        self._buffer = buffer
        if self.anticorrelated:
            self._before = self.drawn(step - 1, self._before)
            self._buffer.sub_(self._before).div_(math.sqrt(2))
        return self._views

    def drawn(self, step, buffer):
        """The draw of (seed, step) for all the parameters, in `buffer` if it is one on their device."""
        device = self.parameters[0].device
        if buffer is None or buffer.device != device:
            total = sum(parameter.numel() for parameter in self.parameters)
            buffer = torch.empty(total, dtype=torch.float32, device=device)
        generator = torch.Generator(device).manual_seed(stream_seed(self.seed, "noise", step))
        return self.draw(buffer, generator)


# What goes with noise in the moments.


def create_moments(optimizer):
    """Give a stock Adam or AdamW the state that it would make at its first step, all zero."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            device = parameter.device if group["fused"] or group["capturable"] else "cpu"
            optimizer.state[parameter].update(
                step=torch.zeros((), dtype=torch.float32, device=device),
                exp_avg=torch.zeros_like(parameter, memory_format=torch.preserve_format),
                exp_avg_sq=torch.zeros_like(parameter, memory_format=torch.preserve_format),
            )


def reset_moments(optimizer):
    """Make Adam or AdamW forget: moments and their step counts 0, so that bias correction begins anew."""
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()


class MatchedWarmup:
    """A learning rate warmed up as noise would warm it up, without noise.

    Noise of sd sigma_t makes AdamW's second moment v + s of v, which shortens the signal's step by a factor.
    Here that is one number for all elements:

        factor = sqrt(v / (v + s)),  v <- beta2 v + (1 - beta2) mean(g^2),  s <- beta2 s + (1 - beta2) sigma_t^2

    with the run's own clean g, after clipping. Bias correction cancels. Weight decay is not to be scaled.
    state: (v, s), to be saved with the run.
    """

    def __init__(self, sigma, beta2, device="cpu"):
        self.sigma, self.beta2 = sigma, beta2
        self.state = torch.zeros(2, device=device)

    def factor(self, step, mean_square, applies):
        """The factor of iteration `step`, a 0-dim tensor; mean_square: of the clean gradient's elements.

        applies: a 0-dim bool tensor; where it is false (a step that the scaler will skip), nothing is taken in.
        """
        now = torch.stack((mean_square.float(), torch.full_like(mean_square, self.sigma(step) ** 2)))
        then = self.state.mul(self.beta2).add(now, alpha=1 - self.beta2)
        self.state.copy_(torch.where(applies, then, self.state))
        v, s = self.state
        return torch.sqrt(v / (v + s).clamp(min=1e-38))


# NoisyTune: noise in pretrained weights, once, before they are fine-tuned.

STDS = ("tensor", "global")


@torch.no_grad()
def noisytune_(model, lam, seed, draw="uniform", std="tensor"):
    """Perturb every parameter tensor of a pretrained model, once, before its first step:

        W <- W + lam * std(W) * U(-1/2, 1/2)

    (NoisyTune, Wu et al. 2022, arXiv:2202.12024, whose lam is 0.15). Any nn.Module; call it after loading.

    draw: "uniform", or "gaussian" of the same sd, lam * std(W) / sqrt 12; any name in DRAWS.
    std: "tensor", each one's own (ddof 1), or "global", one for the elements of all that get any; norms'
        weights, far from 0, widen it beyond that of the matrices.
    A tensor of one element or of equal elements gets none, a tied one is perturbed once. The draw is a
    function of (seed, the tensor's place among the parameters). All is computed on the CPU, since sums on a
    card are rounded otherwise: the same bits on every device.
    """
    if std not in STDS:
        raise ValueError(f"std={std!r} is none of {', '.join(STDS)}")
    parameters = list(model.parameters())
    before = {number: parameter.detach().cpu() for number, parameter in enumerate(parameters)}
    chosen = {number: w for number, w in before.items() if w.numel() > 1 and w.min() < w.max()}
    whole = torch.cat([w.flatten() for w in chosen.values()]).std() if std == "global" and chosen else None
    for number, w in chosen.items():
        generator = torch.Generator().manual_seed(stream_seed(seed, "noisytune", number))
        unit = DRAWS[draw](torch.empty(w.shape), generator)
        scale = (w.std() if whole is None else whole) * lam / math.sqrt(12)
        parameters[number].copy_(w + unit.to(w) * scale)
