"""Gradient noise for any PyTorch loop. Needs nothing but torch: copy this one file.

    g~_t = g_t + sigma(t) * scale(g_t) * xi_t

Three choices define the noise. `sigma` is the standard deviation at iteration t (a function in SCHEDULES, or
your own). A distribution (DISTRIBUTIONS) gives xi_t, independent for every element, with mean 0 and sd 1. A
scale (SCALES) is the unit of sigma. `GradientNoise.add_(t)` adds it, between clipping and `optimizer.step()`.
It keeps no state between steps: xi_t is a function of (seed, t). `noisytune_` perturbs pretrained weights,
once.
"""

import functools
import hashlib
import inspect
import math

import torch

# Under this sd nothing is drawn: AdamW's epsilon is 1e-8, so that it would move no weight by more than 1e-7
# learning rates, even one of gradient 0. One of RMS 3e-4 (10.7 M parameters, norm 1) has a resolution of 3e-11.
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
    """sigma * gamma^k, where k counts the losses passed to `observe` that were not a new lowest one.

    The only schedule with state: save its attributes, plain numbers, with the run. After Yu et al., IEEE S&P
    2019, who decay at a threshold of validation accuracy.
    """

    def __init__(self, sigma, gamma):
        self.sigma, self.gamma = sigma, gamma
        self.failures, self.best = 0, math.inf

    def __call__(self, t):
        return self.sigma * self.gamma**self.failures

    def observe(self, loss):
        """Count a loss that did not improve on the best one before it."""
        loss = float(loss)
        self.failures += loss >= self.best
        self.best = min(self.best, loss)


SCHEDULES = {f.__name__: f for f in (exponential, linear, cosine, constant, inverse)} | {"plateau": Plateau}


def schedule(name, **constants):
    """sigma(t) for a name in SCHEDULES: a function of the iteration alone, but for "plateau".

    constants: sigma, gamma, eta, steps. Those that the schedule does not take are ignored, so that one set of
    options can drive them all.
    """
    function = look_up(SCHEDULES, name)
    names = inspect.signature(function).parameters.keys() - {"t"}
    if missing := names - constants.keys():
        raise ValueError(f"the schedule {name!r} needs {' and '.join(sorted(missing))}")
    chosen = {name: constants[name] for name in names}
    return function(**chosen) if isinstance(function, type) else functools.partial(function, **chosen)


def look_up(table, name):
    """The entry of a table such as SCHEDULES; ValueError with the names that there are."""
    if name not in table:
        raise ValueError(f"{name!r} is none of {', '.join(table)}")
    return table[name]


# Distributions: fill a float tensor in place with independent values of mean 0 and sd 1.


def gaussian(out, generator):
    """N(0, 1)."""
    return out.normal_(generator=generator)


def uniform(out, generator):
    """U(-sqrt 3, sqrt 3)."""
    return out.uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)


def laplace(out, generator):
    """Laplace(0, 1 / sqrt 2): the difference of two unit exponentials -ln(1 - u), u in [0, 1), over sqrt 2. It
    needs a second tensor meanwhile. PyTorch's exponential_ takes 6 times as long on a CPU."""
    other = torch.empty_like(out).uniform_(generator=generator).neg_().log1p_()
    return out.uniform_(generator=generator).neg_().log1p_().sub_(other).div_(math.sqrt(2))


DISTRIBUTIONS = {f.__name__: f for f in (gaussian, uniform, laplace)}


# Scales: the unit of sigma. None for 1, a 0-dim tensor for all gradients, or a list with one for each.


def absolute(gradients):
    """sigma is the sd of the noise itself."""
    return None


def global_rms(gradients):
    """sigma is a multiple of ||g|| / sqrt N, over all the elements that get noise."""
    count = sum(gradient.numel() for gradient in gradients)
    return torch.linalg.vector_norm(torch.stack(norms(gradients))) / math.sqrt(count)


def tensor_rms(gradients):
    """sigma is a multiple of each tensor's own ||g_p|| / sqrt n_p."""
    return [norm / math.sqrt(gradient.numel()) for norm, gradient in zip(norms(gradients), gradients)]


SCALES = {"absolute": absolute, "global": global_rms, "tensor": tensor_rms}


def norms(tensors):
    """The L2 norm of each, 0-dim: in float32 at least, and of the whole where a tensor is sharded."""
    dtype = functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors], torch.float32)
    if not any(map(is_sharded, tensors)):
        return torch._foreach_norm(tensors, 2, dtype)
    found = [torch.linalg.vector_norm(tensor, dtype=dtype) for tensor in tensors]
    return [norm.full_tensor() if is_sharded(norm) else norm for norm in found]


def is_sharded(tensor):
    return hasattr(tensor, "device_mesh")  # a DTensor, as FSDP2 has them


def on_this_rank(gradient, noise):
    """(gradient, noise), or the part of each that lies on this rank. Every rank has drawn the whole noise."""
    if not is_sharded(gradient):
        return gradient, noise
    from torch.distributed.tensor import distribute_tensor

    part = distribute_tensor(noise, gradient.device_mesh, gradient.placements, src_data_rank=None)
    return gradient.to_local(), part.to_local()


def stream_seed(seed, stream, *counters):
    """A 63-bit seed for one draw: a hash of the run's seed, the stream's name and the counters.

    Hashed, not added, so that (seed 1, step 1) and (seed 2, step 0) have nothing in common. The CPU's generator
    uses 32 of these bits: two of n draws coincide with probability n^2 / 2^33, 0.3 % in 5,000 steps.
    """
    text = repr((int(seed), str(stream), *map(int, counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class GradientNoise:
    """Add noise to gradients, once an iteration, between clipping and `optimizer.step()`.

    named_parameters: `model.named_parameters()`, all on one device, after fully_shard; tied weights count once.
        Frozen ones are drawn for, too: freezing or thawing one changes no other's noise.
    sigma: iteration -> standard deviation, for instance schedule("exponential", sigma=0.1, gamma=0.99).
    seed: the run's seed. xi_t is a function of (seed, t), the order of the parameters and the device alone:
        resumes, ranks and other generators do not change it, nor does it change them.
    distribution: a name in DISTRIBUTIONS. scale: a name in SCALES.
    where: (name, parameter) -> bool, which parameters get noise; by default all. Beside adapters, say, leave
        out the frozen ones, whose draw is wasted.
    anticorrelated: (xi_t - xi_(t-1)) / sqrt 2 in place of xi_t, of the same sd (Orvieto et al.,
        arXiv:2202.02831); it needs a second draw and, meanwhile, a second buffer.

    With a gradient scaler always call `scaler.unscale_(optimizer)` first, or the scaler divides the noise by
    the loss scale. With gradient accumulation call `add_` once, after the last micro-step.
    """

    def __init__(
        self,
        named_parameters,
        sigma,
        seed,
        distribution="gaussian",
        scale="absolute",
        where=None,
        anticorrelated=False,
    ):
        if not callable(sigma):
            raise ValueError(f"sigma is no function of the iteration: use schedule('constant', sigma={sigma})")
        named = list(named_parameters)
        if any(isinstance(each, torch.Tensor) for each in named):
            raise ValueError("these parameters have no names: give model.named_parameters()")
        chosen = {p: name for name, p in named if where is None or where(name, p)}
        self.parameters, self.names = list(chosen), list(chosen.values())
        if not chosen:
            raise ValueError("no parameter was chosen to get noise")
        if len({parameter.device for parameter in chosen}) > 1:
            raise ValueError("the parameters lie on several devices: a GradientNoise for each, of other seeds")
        self.sigma, self.seed, self.anticorrelated = sigma, seed, anticorrelated
        self.distribution, self.scale = look_up(DISTRIBUTIONS, distribution), look_up(SCALES, scale)
        self._row = None
        self.check()

    def check(self):
        """ValueError where a parameter or its gradient is of a kind that cannot get the noise."""
        for name, parameter in zip(self.names, self.parameters):
            if parameter.is_complex():
                raise ValueError(f"{name} is complex: leave it out by `where`")
            if is_sharded(parameter) and parameter.device.type != parameter.device_mesh.device_type:
                raise ValueError(f"{name} is offloaded to the {parameter.device.type}: use no CPUOffloadPolicy")
            if getattr(parameter, "_fsdp_flattened", False):
                raise ValueError(f"{name} is a flat shard of FSDP1: shard by FSDP2's fully_shard")
            if parameter.grad is not None and parameter.grad.layout is not torch.strided:
                raise ValueError(f"the gradient of {name} is sparse: make its layer with sparse=False")

    @torch.no_grad()
    def add_(self, step, norm=False):
        """Add the noise of iteration `step` (from 0) to the gradients, in place.

        norm: return the L2 norm of what was added, a 0-dim tensor on its device, for another pass over it.
        A parameter without a gradient gets none, and the others' noise does not depend on that. Where
        sigma(step) is under SIGMA_FLOOR nothing is drawn and no gradient is touched.
        """
        sigma = self.sigma_at(step)
        if not sigma:
            return torch.zeros((), device=self.parameters[0].device) if norm else None
        _, gradients, noise = self.scaled(self.unit(step))
        here, noise_here = zip(*map(on_this_rank, gradients, noise))
        torch._foreach_add_(here, noise_here, alpha=sigma)
        return sigma * torch.linalg.vector_norm(torch.stack(norms(noise))) if norm else None

    def sigma_at(self, step):
        """sigma(step), or 0 where it is under the floor; then the buffer is freed."""
        sigma = self.sigma(step)
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma({step}) is {sigma}: a standard deviation is finite and not below 0")
        if sigma >= SIGMA_FLOOR:
            return sigma
        self._row = None
        return 0.0

    def scaled(self, unit):
        """(parameters, their gradients, `unit` times the scale, in place), for those that have a gradient.
        unit: a tensor for each of self.parameters."""
        self.check()
        found = [(p, p.grad, xi) for p, xi in zip(self.parameters, unit) if p.grad is not None]
        if not found:
            raise ValueError("no parameter has a gradient: call this after backward, before zero_grad")
        parameters, gradients, noise = map(list, zip(*found))
        factor = self.scale(gradients)
        if factor is not None:
            torch._foreach_mul_(noise, factor)
        return parameters, gradients, noise

    def unit(self, step):
        """xi of iteration `step`: float32 tensors shaped as the parameters, views of one buffer.

        They are valid until the next call. One draw fills the buffer, so that no two tensors share values.
        """
        device, sizes = self.parameters[0].device, [parameter.numel() for parameter in self.parameters]
        if self._row is None or self._row.device != device:
            self._row = torch.empty(sum(sizes), dtype=torch.float32, device=device)
        self._draw(step, self._row)
        if self.anticorrelated:
            self._row.sub_(self._draw(step - 1, torch.empty_like(self._row))).div_(math.sqrt(2))
        return [xi.view(parameter.shape) for xi, parameter in zip(self._row.split(sizes), self.parameters)]

    def _draw(self, step, row):
        """Fill a row with xi of (seed, step), for all the parameters."""
        generator = torch.Generator(row.device).manual_seed(stream_seed(self.seed, "noise", step))
        return self.distribution(row, generator)


# NoisyTune: noise in pretrained weights, once, before they are fine-tuned.


@torch.no_grad()
def noisytune_(model, lam, seed, distribution="uniform", std="tensor"):
    """Perturb every parameter tensor of a pretrained model, once, before its first step:

        W <- W + lam * std(W) * U(-1/2, 1/2)

    (NoisyTune, Wu et al. 2022, arXiv:2202.12024, whose lam is 0.15). Any nn.Module; call it after loading.

    distribution: "uniform", or another name in DISTRIBUTIONS, of the same sd, lam * std(W) / sqrt 12.
    std: "tensor" for each tensor's own (ddof 1), or "global" for one over all elements that get noise; the
        weights of norms, far from 0, make that wider than the matrices' own.
    A tensor of one element or of equal elements gets none; a tied one is perturbed once. The noise is a
    function of (seed, the tensor's place among the parameters). It is computed on the CPU, for the same bits on
    every device.
    """
    if std not in ("tensor", "global"):
        raise ValueError(f"std={std!r} is none of tensor, global")
    parameters = list(model.parameters())
    before = {number: parameter.detach().cpu() for number, parameter in enumerate(parameters)}
    chosen = {number: w for number, w in before.items() if w.numel() > 1 and w.min() < w.max()}
    whole = torch.cat([w.flatten() for w in chosen.values()]).std() if std == "global" and chosen else None
    for number, w in chosen.items():
        generator = torch.Generator().manual_seed(stream_seed(seed, "noisytune", number))
        unit = look_up(DISTRIBUTIONS, distribution)(torch.empty(w.shape), generator)
        scale = (w.std() if whole is None else whole) * lam / math.sqrt(12)
        parameters[number].copy_(w + unit.to(w) * scale)
