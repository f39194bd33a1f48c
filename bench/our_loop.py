"""train.py's own step and checkpoint: all that the bench knows of the inside of training."""

import time

import torch

from train import accumulate, train_step
from training import lifecycle
from training.run import Run, new_history

LENGTH = 100_000  # iterations, more than are measured of any run; what is trained whole may be longer


class OurLoop:
    """train.py's step, for up to LENGTH iterations of a shorter run.

    folder: of a run, into which it logs as train.py does; None for no log.
    """

    def __init__(self, config, corpus, machine, folder=None):
        self.config, self.corpus, self.machine, self.folder = config, corpus, machine, folder
        self.run = Run(config, corpus, machine)
        self.run.history = new_history(max(LENGTH, config.max_iters), machine.device)
        self.model = self.run.model
        self.how = "off"  # it is compiled
        if machine.compile:
            # Many loops share the model's code: no rate of dropout may be symbolic, none run eagerly unsaid.
            torch._dynamo.config.specialize_float = True
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            began = time.perf_counter()
            self.how = lifecycle.warm_up(self.run, accumulate)
            self.warm_up_seconds = time.perf_counter() - began

    def train_step(self):
        """One iteration; returns its mean loss, on the device."""
        run = self.run
        train_step(run)
        if self.folder and (run.step - 1) % self.config.log_interval == 0:
            lifecycle.log(run, self.folder)
        return run.history[run.step - 1, 0]

    def compile_seconds(self):
        """What compilation took; None where nothing is compiled."""
        if not self.model.compiled:
            return None
        passes = 4 if self.how == "graphs" else 2
        return self.warm_up_seconds - passes * lifecycle.throw_away(self.run, accumulate)

    def val_loss(self):
        return lifecycle.val_loss(self.run)

    def checkpoint(self, folder):
        lifecycle.save_checkpoint(self.run, folder)
