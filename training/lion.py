"""Lion (Chen et al. 2023, arXiv:2302.06675): steps by the sign of a momentum. It remembers no squares."""

import torch


class Lion(torch.optim.Optimizer):
    """One momentum m, two decays, decoupled weight decay:

    w <- (1 - lr * weight_decay) w - lr * sign(beta1 m + (1 - beta1) g),    m <- beta2 m + (1 - beta2) g
    """

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            parameters, (beta1, beta2) = group["params"], group["betas"]
            gradients = [p.grad for p in parameters]
            momenta = [self.momentum(p) for p in parameters]
            updates = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)

    def momentum(self, parameter):
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        return state["exp_avg"]
