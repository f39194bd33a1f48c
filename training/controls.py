"""The mechanism study's controls: hooks into a step that put the noise elsewhere and measure what it does.

    option                         what it does, and where in train_step
    noise_before_clip              the noise is added before clipping: before_clip
    noise_target=first_moment      m += (1 - beta1) / beta1 * xi, the gradient clean: add_noise
    noise_target=second_moment     v += (1 - beta2) / beta2 * ((g + xi)^2 - g^2): add_noise
    ...=second_moment_mean         v += (1 - beta2) / beta2 * sigma^2, the mean of that: add_noise
    noise_target=weights           w += lr * xi, beside the update: after_update
    noise_target=learning_rate     no noise; the learning rate warms up as noise would make it: add_noise
    noise_target=clean_direction   no noise; the update as long as v + s would make it, s the mean of that
    noise_target=noisy_direction   no noise; the update's direction as v + s would make it: both in add_noise
    reset_below_sigma              AdamW's moments are forgotten when sigma falls below it: before_backward
    diagnose_interval              what an update consists of is measured (diagnosis.py): all of them

A run of the paper's method has none of them. xi: of sd sigma_t, scaled as noise.py has it. A step that the
gradient scaler skips changes no moment and no weight.
"""

import math

import torch

from training.diagnosis import CleanMoments, Diagnosis


def add_to_gradients(run):
    """The noise of this step; returns its L2 norm, or NaN where nobody looks at it, as it costs a pass."""
    diagnosed = run.config.diagnose_interval and run.step % run.config.diagnose_interval == 0
    norm = run.noise.add_(run.step, norm=diagnosed or run.is_logged(run.step))
    return torch.full((), math.nan, device=run.machine.device) if norm is None else norm


class Control:
    """What train.py's train_step calls beside its own: a target, and a diagnosis of what that does."""

    def __init__(self, run):
        config = run.config
        self.target = TARGETS[config.noise_target if config.noisy else "gradient"](run)
        self.diagnosis = Diagnosis(run.optimizer) if config.diagnose_interval else None
        self.grad_norm = self.noise_norm = None  # of this step
        self.measured = None  # {name: 0-dim tensor} of this step, where it was to be measured

    def before_backward(self, run):
        if self.diagnosis and run.step % run.config.diagnose_interval == 0:
            self.diagnosis.measure_batch(run)
        if reset_is_due(run):
            reset_moments(run.optimizer)
            if self.diagnosis:
                self.diagnosis.reset()

    def before_clip(self, run):
        if run.config.noise_before_clip:
            self.noise_norm = add_to_gradients(run)

    def add_noise(self, run, grad_norm):
        if self.diagnosis:
            self.diagnosis.observe(grad_norm.isfinite())
        if not run.config.noise_before_clip:
            self.noise_norm = self.target.add_noise(run, grad_norm)
        self.grad_norm = grad_norm
        return self.noise_norm

    def after_update(self, run):
        self.target.after_update(run)
        self.measured = None
        if self.diagnosis and self.diagnosis.batch_norm is not None:
            self.measured = self.diagnosis.measure_update(
                run, self.grad_norm, self.noise_norm, self.target.lr_factor
            )

    def state(self):
        return {
            **self.target.state(),
            "diagnosis": self.diagnosis.state() if self.diagnosis else None,
        }

    def restore(self, state):
        self.target.restore(state)
        if self.diagnosis:
            self.diagnosis.restore(state["diagnosis"])


class GradientTarget:
    """Noise in the gradients, the paper's method; and what every target has, hooks and a state for a resume."""

    lr_factor = 1.0  # of the learning rate, at the last step

    def __init__(self, run):
        pass

    def add_noise(self, run, grad_norm):
        """Between clipping and the update; returns the L2 norm of the noise, a 0-dim tensor, or NaN."""
        return add_to_gradients(run)

    def after_update(self, run):
        pass

    def state(self):
        return {}

    def restore(self, state):
        pass


class MomentTarget(GradientTarget):
    """Noise in one moment of AdamW, changed before the stock step so that the step makes of it what it would
    have been had it seen the noisy gradient. Correcting it afterwards would cancel in float32."""

    def __init__(self, run):
        create_moments(run.optimizer)

    def add_noise(self, run, grad_norm):
        return add_to_moments_(
            run.noise, run.step, run.optimizer, run.config.noise_target, grad_norm.isfinite()
        )


class WeightTarget(GradientTarget):
    """lr * xi on the weights: what SGD would make of the noise, with no moment to go through."""

    def __init__(self, run):
        self.noise = None

    @torch.no_grad()
    def add_noise(self, run, grad_norm):
        sigma = run.noise.sigma_at(run.step)
        if not sigma:
            self.noise = None
            return torch.zeros_like(grad_norm)
        self.noise = run.noise.unit(run.step)
        torch._foreach_mul_(self.noise, grad_norm.isfinite().to(self.noise[0].dtype))
        return sigma * torch.nn.utils.get_total_norm(self.noise)

    @torch.no_grad()
    def after_update(self, run):
        if self.noise is not None:
            rate = run.optimizer.param_groups[0]["lr"]
            torch._foreach_add_(run.noise.parameters, self.noise, alpha=rate * run.noise.sigma(run.step))


class LearningRateTarget(GradientTarget):
    """No noise: a learning rate warmed up as the noise would warm it up, one factor for all elements.

    Noise of sd sigma_t makes AdamW's second moment v + s of v, which shortens the step of a signal by

        factor = sqrt(v / (v + s)),  v <- beta2 v + (1 - beta2) mean(g^2),  s <- beta2 s + (1 - beta2) sigma_t^2

    with the run's own clean g, after clipping; bias correction cancels. The weight decay is not scaled.
    ema: (v, s), saved with the run.
    """

    def __init__(self, run):
        self.ema = torch.zeros(2, device=run.machine.device)
        leave_decay_out(run.optimizer)

    @torch.no_grad()
    def add_noise(self, run, grad_norm):
        config, applies = run.config, grad_norm.isfinite()
        clipped = grad_norm.clamp(max=config.grad_clip) if config.grad_clip else grad_norm
        mean_square = clipped.square() / run.model.parameter_count()
        self.lr_factor = self.factor(mean_square, run.noise.sigma(run.step), config.beta2, applies)
        scale_rate(run, self.lr_factor, applies)
        return torch.zeros_like(grad_norm)

    def factor(self, mean_square, sigma, beta2, applies):
        """The factor, a 0-dim tensor. applies: a 0-dim bool tensor; where false, nothing is taken in."""
        now = torch.stack((mean_square.float(), torch.full_like(mean_square, sigma**2)))
        ema = self.ema.mul(beta2).add(now, alpha=1 - beta2)
        self.ema.copy_(torch.where(applies, ema, self.ema))
        v, s = self.ema
        return torch.sqrt(v / (v + s).clamp(min=1e-38))

    def state(self):
        return {"warmup": self.ema}

    def restore(self, state):
        self.ema.copy_(state["warmup"])


class DirectionTarget(GradientTarget):
    """The mean of the noise in v shortens an update and turns it; here it does one of the two.

    With m and v the clean moments of this step and s the running mean of sigma_t^2, all bias-corrected,

        u = m / (sqrt(v) + eps),              u' = m / (sqrt(v + s) + eps),
        clean_direction: u * |u'| / |u|,      noisy_direction: u' * |u| / |u'|

    with norms over all parameters. The factor is on the learning rate; the weight decay is not scaled. AdamW's
    own v is v in the one and v + s in the other. s: saved with the run, as are the clean moments.
    """

    def __init__(self, run):
        create_moments(run.optimizer)
        leave_decay_out(run.optimizer)
        self.clean, self.s = CleanMoments(run.optimizer), torch.zeros((), device=run.machine.device)

    @torch.no_grad()
    def add_noise(self, run, grad_norm):
        applies, beta2 = grad_norm.isfinite(), run.config.beta2
        self.clean.observe(applies)
        now = torch.full_like(self.s, run.noise.sigma(run.step) ** 2)
        self.s.lerp_(now, torch.where(applies, 1 - beta2, 0.0))
        done = run.optimizer.state[self.clean.parameters[0]]["step"] + 1
        ratio = self.norm(self.s, 1 - beta2**done) / self.norm(0.0, 1 - beta2**done).clamp(min=1e-38)
        noisy = run.config.noise_target == "noisy_direction"
        self.lr_factor = 1 / ratio.clamp(min=1e-38) if noisy else ratio
        scale_rate(run, self.lr_factor, applies)
        if noisy:
            return add_to_moments_(run.noise, run.step, run.optimizer, "second_moment_mean", applies)
        return torch.zeros_like(grad_norm)

    def norm(self, s, bias2):
        """Of the update with v + s, over all parameters, but for the bias correction of m, which cancels."""
        size = ((self.clean.second + s) / bias2).sqrt() + self.clean.eps
        return (self.clean.first / size).norm()

    def state(self):
        return {"direction": {**self.clean.state(), "s": self.s}}

    def restore(self, state):
        self.clean.restore(state["direction"])
        self.s.copy_(state["direction"]["s"])


def leave_decay_out(optimizer):
    """Leave weight decay to scale_rate."""
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0


def scale_rate(run, factor, applies):
    """Multiply the learning rate of this step by a factor, and decay the weights at the unscaled one."""
    rate = run.optimizer.param_groups[0]["lr"]
    for group in run.optimizer.param_groups:
        group["lr"] = rate * factor
    decaying = [parameter for parameter in run.model.parameters() if parameter.dim() >= 2]
    torch._foreach_mul_(decaying, torch.where(applies, 1 - rate * run.config.weight_decay, 1.0))


TARGETS = {
    "gradient": GradientTarget,
    "first_moment": MomentTarget,
    "second_moment": MomentTarget,
    "second_moment_mean": MomentTarget,
    "weights": WeightTarget,
    "learning_rate": LearningRateTarget,
    "clean_direction": DirectionTarget,
    "noisy_direction": DirectionTarget,
}


@torch.no_grad()
def add_to_moments_(noise, step, optimizer, target, applies):
    """Give one moment of AdamW the noise of iteration `step` (the formulae above), the gradients left clean.

    Call it in the place of `noise.add_`. The moments must exist (create_moments), betas be above 0 and alike in
    all groups, and weight decay be decoupled. applies: a 0-dim bool tensor; where false, nothing changes.
    Returns the L2 norm of the noise that this stands for.
    """
    sigma = noise.sigma_at(step)
    if not sigma:
        return torch.zeros((), device=noise.parameters[0].device)
    random = target != "second_moment_mean"  # otherwise xi is sigma everywhere
    unit = noise.unit(step) if random else [torch.ones_like(p) for p in noise.parameters]
    parameters, gradients, xis = noise.scaled(unit)
    torch._foreach_mul_(xis, sigma)
    norm = torch.nn.utils.get_total_norm(xis)
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    for parameter, gradient, xi in zip(parameters, gradients, xis):
        state = optimizer.state[parameter]
        if target == "first_moment":
            change, moment, beta = xi, state["exp_avg"], beta1
        else:
            change, moment, beta = xi * (xi + 2 * gradient if random else xi), state["exp_avg_sq"], beta2
        moment.add_(change.masked_fill(~applies, 0.0), alpha=(1 - beta) / beta)
        if target == "second_moment":  # beta2 v + (1 - beta2) g^2 must not round to below 0
            least = gradient.square() * ((1e-6 - 1) * (1 - beta) / beta)
            torch.maximum(moment, least.masked_fill_(~applies, 0.0), out=moment)
    return norm


def create_moments(optimizer):
    """Give a fused Adam or AdamW the state that it would make at its first step, all zero."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter].update(
                step=torch.zeros((), dtype=torch.float32, device=parameter.device),
                exp_avg=torch.zeros_like(parameter, memory_format=torch.preserve_format),
                exp_avg_sq=torch.zeros_like(parameter, memory_format=torch.preserve_format),
            )


def reset_moments(optimizer):
    """Make Adam or AdamW forget: moments and step counts 0, so that bias correction begins anew."""
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()


def reset_is_due(run):
    """Whether this is the first step whose sigma is under the threshold."""
    threshold, sigma = run.config.reset_below_sigma, run.noise.sigma
    return bool(threshold and run.step and sigma(run.step) < threshold <= sigma(run.step - 1))
