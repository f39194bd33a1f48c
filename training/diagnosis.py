"""What noise does to the updates of Adam and AdamW, measured without changing the run.

It costs two numbers for each weight and a pass over them each step, and at each measurement one more forward
and backward pass over the batch.
"""

import math

import torch

from noise import stream_seed
from training.evaluate import eagerly


class CleanMoments:
    """The moments that the run's clean gradients alone would have given, without bias correction.

    first, second: of all parameters in one row, in the optimizer's order.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.betas, self.eps = optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["eps"]
        size = sum(p.numel() for p in self.parameters)
        self.first, self.second = (self.parameters[0].new_zeros(size) for _ in range(2))

    @torch.no_grad()
    def observe(self, applies):
        """Take in the clean gradients. applies: a 0-dim bool tensor, false where the step will be skipped."""
        gradient = torch.cat([g.flatten() for g in self.gradients()])
        gradient = torch.where(applies, gradient, 0.0)
        for moment, value, beta in zip((self.first, self.second), (gradient, gradient.square()), self.betas):
            moment.lerp_(value, torch.where(applies, 1 - beta, 0.0))

    def gradients(self):
        """With the weight decay that Adam, not AdamW, adds to them."""
        coupled = not isinstance(self.optimizer, torch.optim.AdamW)
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                decay = group["weight_decay"] * coupled
                yield parameter.grad.add(parameter, alpha=decay) if decay else parameter.grad

    def reset(self):
        """Forget, as AdamW's moments are forgotten."""
        self.first.zero_()
        self.second.zero_()

    def state(self):
        return {"first": self.first, "second": self.second}

    def restore(self, state):
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])


class Diagnosis(CleanMoments):
    """At a step to be measured: measure_batch before the backward pass, observe between clipping and noise (at
    every step), measure_update after the optimizer's step."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.batch_norm = None  # before clipping, at a step that is being measured
        sizes = [p.numel() for p in self.parameters]
        self.views = [
            (first.view_as(p), second.view_as(p))
            for p, first, second in zip(self.parameters, self.first.split(sizes), self.second.split(sizes))
        ]

    @torch.no_grad()
    def measure(self, factor=1.0, into_weights=0.0):
        """What the last update consisted of, as 0-dim tensors by name.

        factor: what the learning rate was multiplied by in this step. into_weights: the norm of the noise that
        was added to the weights beside the update, divided by the learning rate.

        signal_rms, noise_rms: of the update's two parts in learning rates: m^ / (sqrt v^ + eps) with the clean
            first moment, and with what the noise added to it, both under the actual second moment.
        signal_share: the fraction of the update's mean square that is signal.
        preconditioner: the mean over elements of sqrt(clean v / actual v).
        """
        totals = torch.zeros(3, device=self.parameters[0].device)
        count = self.first.numel()
        for parameter, (first, second) in zip(self.parameters, self.views):
            state = self.optimizer.state[parameter]
            bias1, bias2 = (1 - beta ** state["step"] for beta in self.betas)
            size = bias1 * ((state["exp_avg_sq"] / bias2).sqrt() + self.eps)
            ratio = (second / state["exp_avg_sq"].clamp(min=1e-38)).sqrt()
            parts = ((first / size).square(), ((state["exp_avg"] - first) / size).square(), ratio)
            totals += torch.stack([part.sum() for part in parts])
        signal, noise, ratio = totals / count
        signal, noise = signal * factor**2, noise * factor**2 + into_weights**2 / count
        share = signal / (signal + noise)
        return {
            **{"signal_rms": signal.sqrt(), "noise_rms": noise.sqrt()},
            **{"signal_share": share, "preconditioner": ratio},
        }

    def measure_batch(self, run):
        """Estimate the norm of the batch gradient's own noise, before clipping, from the halves of the first
        micro-step; divided by the root of the number of micro-steps, whose mean the gradient is."""
        config, half = run.config, run.config.batch_size // 2
        x, y = run.batch(0)

        def loss_of(rows):
            with run.machine.autocast():
                return run.scaler.scale(run.model(x[rows], y[rows])[1])

        torch.manual_seed(stream_seed(config.seed, "dropout", run.step, 0))
        halves = [lambda: loss_of(slice(0, half)), lambda: loss_of(slice(half, 2 * half))]
        with eagerly(run.model):  # a compiled model would be compiled again for half a batch
            norm = batch_noise_norm(halves, list(run.model.parameters()))
        scale = run.scaler.scale(torch.ones_like(norm))
        self.batch_norm = norm / scale / math.sqrt(config.gradient_accumulation_steps)

    def measure_update(self, run, grad_norm, noise_norm, lr_factor):
        """`measure` for the step just done, with the batch's own noise as it was clipped, and the ratio to
        it."""
        config = run.config
        clipped = grad_norm.clamp(max=config.grad_clip) if config.grad_clip else grad_norm
        own_noise = self.batch_norm * clipped / grad_norm
        self.batch_norm = None
        into_weights = noise_norm if config.noise_target == "weights" else 0.0
        measured = self.measure(lr_factor, into_weights)
        return measured | {"own_noise_norm": own_noise, "noise_ratio": noise_norm / own_noise}


def batch_noise_norm(half_losses, parameters):
    """The norm of a mini-batch gradient's own noise, by the gradients of its two halves:

    ||g_1 - g_2|| / 2, whose square's expectation is the trace of the covariance of (g_1 + g_2) / 2
    (McCandlish et al., arXiv:1812.06162). half_losses: two functions that give the mean loss of a half.
    """
    one, other = (torch.autograd.grad(loss(), parameters) for loss in half_losses)
    return torch.nn.utils.get_total_norm(torch._foreach_sub(list(one), list(other))) / 2
