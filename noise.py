"""Gradient noise for any PyTorch loop. Needs torch alone: copy this one file.

    g~_t = g_t + sigma(t) * scale(g_t) * xi_t

Noise is three choices and one step. `sigma` says how much at iteration t (a function in SCHEDULES, or
your own), a draw (DRAWS) gives xi_t, independent for every element, of mean 0 and sd 1, and a scale
(SCALES) says in what unit sigma is counted. `GradientNoise.add_(t)` is the step, between clipping and
`optimizer.step()`. Nothing is remembered from one step to the next: xi_t is a function of (seed, t).
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
    """Laplace(0, 1 / sqrt 2): the difference of two unit exponentials, over sqrt 2."""
    other = torch.empty_like(out).exponential_(generator=generator)
    return out.exponential_(generator=generator).sub_(other).div_(math.sqrt(2))


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
        and the device's kind alone: resumes, ranks and other generators do not change it, nor it them.
    draw: a name in DRAWS. scale: a name in SCALES.
    where: (name, parameter) -> bool, which parameters get noise; by default all.

    With a gradient scaler call `scaler.unscale_(optimizer)` first, always: otherwise the scaler divides
    the noise by the loss scale. With gradient accumulation call it once, after the last micro-step.
    """

    def __init__(self, named_parameters, sigma, seed, draw="gaussian", scale="absolute", where=None):
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
        self.sigma, self.seed = sigma, seed
        self.draw, self.scale = DRAWS[draw], SCALES[scale]
        self._buffer = None

    @torch.no_grad()
    def add_(self, step):
        """Add the noise of iteration `step` (from 0) to the gradients, in place.

        Returns the L2 norm of what was added: a 0-dim tensor on the gradients' device, not synchronised.
        A parameter without a gradient gets none; the others' noise does not depend on that. Where
        sigma(step) is under SIGMA_FLOOR nothing is drawn and no gradient is touched.
        """
        sigma = self.sigma(step)
        if not sigma >= SIGMA_FLOOR:
            self._buffer = None
            return torch.zeros((), device=self.parameters[0].device)
        pairs = [(p.grad, xi) for p, xi in zip(self.parameters, self.unit(step)) if p.grad is not None]
        if not pairs:
            raise ValueError("no parameter has a gradient: call add_ after backward, before zero_grad")
        gradients, noise = [list(column) for column in zip(*pairs)]
        factor = self.scale(gradients)
        if factor is not None:
            torch._foreach_mul_(noise, factor)
        torch._foreach_add_(gradients, noise, alpha=sigma)
        return sigma * torch.nn.utils.get_total_norm(noise)

    def unit(self, step):
        """xi of iteration `step`: float32 tensors shaped as the parameters, views of one buffer.

        They hold until the next call. One draw fills the buffer, so that no two tensors share values.
        """
        device = self.parameters[0].device
        if self._buffer is None or self._buffer.device != device:
            total = sum(parameter.numel() for parameter in self.parameters)
            self._buffer = torch.empty(total, dtype=torch.float32, device=device)
        generator = torch.Generator(device).manual_seed(stream_seed(self.seed, "noise", step))
        self.draw(self._buffer, generator)
        pieces = self._buffer.split([parameter.numel() for parameter in self.parameters])
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, self.parameters)]
