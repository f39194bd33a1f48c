"""Train one small GPT, with or without gradient noise.

    python train.py config/shakespeare_noise.py [more files] [--key=value ...]

A run is a function of its config, its corpus and its seed. It lives in a run folder (training/run_files.py),
from which the same command resumes it if it was stopped, and from which plot.py draws it.

    torchrun --nproc_per_node=2 train.py config/shakespeare_noise.py

trains it in two processes, each with its share of every batch's rows (and dropout masks of its own).

Exit status: 0 finished, 1 a fault here or in another process, 2 a mistake in the command, 3 diverged,
128 + n stopped by signal n.
"""

import math
import subprocess
import sys

from config import ROOT, before_torch

if __name__ == "__main__":
    before_torch(sys.argv[1:])  # its import takes a second, which a mistake in the command need not wait for

import torch

from noise import stream_seed
from sample import samples
from training import lifecycle
from training.distributed import joined, on_rank0, run_script_at_once
from training.machine import enough_memory
from training.run import Diverged
from training.run_folder import RunFolder
from training.terminal import Progress, Signals


def main(argv):
    """Train the run that a command line describes, from the step that its folder has; returns the exit
    status."""
    with joined() as ranks:
        config, machine, corpus, source = lifecycle.set_up(argv, ranks)
        with (
            enough_memory(machine.device, lifecycle.USE_LESS_MEMORY),
            RunFolder(config.out_dir, writes=ranks.is_main) as folder,
        ):
            run = lifecycle.begin_or_resume(folder, config, machine, corpus, source, ranks)
            status = train_to_end(run, folder) if run else lifecycle.exit_status(folder)
    if config.plot and status == 0 and ranks.is_main:
        sys.stdout.flush()
        subprocess.run([sys.executable, ROOT / "plot.py", folder.path], check=False)
    return status


def train_to_end(run, folder):
    """Train, then evaluate the whole splits; returns the exit status."""
    try:
        with Signals(silent=not run.ranks.is_main, parent=run.ranks.parent) as signals:
            if run.step < run.config.max_iters:
                lifecycle.warm_up(run, accumulate, folder)
            train(run, folder, signals)
        lifecycle.finish(run, folder)
    except lifecycle.Stopped as stop:
        return lifecycle.stopped(run, stop.signal)
    except Diverged as end:
        return lifecycle.write_diverged(run, folder, end.iteration)
    if run.config.sample_tokens:
        print_sample(run, folder)
    return 0


def train(run, folder, signals):
    """From the step that the run has reached to max_iters: checkpoint, evaluate, step, log.

    The ranks agree before each step whether a signal asks one of them to stop. The checkpoint is written before
    the evaluation of the same step, and a resumed run repeats that evaluation. The paper's "val" is the lowest
    of the evaluations.
    """
    config, began_at = run.config, run.step
    run.meter.start(run.step)
    with Progress(run.step, config.max_iters, silent=not run.ranks.is_main) as progress:
        while True:
            last = run.step == config.max_iters
            due = last or run.step % config.checkpoint_interval == 0
            stop = run.ranks.all_reduce_max(signals.caught)
            if (stop or due) and run.step > began_at:
                lifecycle.checkpoint(run, folder)
            if stop:
                raise lifecycle.Stopped(stop)
            if last or run.step % config.eval_interval == 0:
                progress.evaluating()
                progress.evaluated(lifecycle.evaluate(run, folder))
            if last:
                if stop := run.ranks.all_reduce_max(signals.caught):  # the losses of whole splits take long
                    raise lifecycle.Stopped(stop)
                return
            lifecycle.update_plateau(run)
            train_step(run)  # counts itself in run.step
            if run.is_logged(run.step - 1):
                progress.logged(lifecycle.log(run, folder))
            lifecycle.log_diagnosis(run, folder)
            progress.stepped()


def train_step(run):
    """One iteration, in the paper's order: accumulate, average, unscale, clip, add noise, update.

    Every rank adds the same noise to the same gradient, so that all keep the same weights. Averaged while it is
    still scaled, a gradient that is infinite on one rank is so on all, and all skip the update. `control` does
    nothing but add the noise; the mechanism study's controls put it elsewhere (training/controls.py).
    """
    config, step, control = run.config, run.step, run.control
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    control.before_backward(run)
    loss = accumulate(run)
    run.ranks.average_([loss, *(parameter.grad for parameter in run.model.parameters())])
    run.scaler.unscale_(run.optimizer)  # even without clipping, or the scaler would divide the noise too
    control.before_clip(run)
    grad_norm = clip(run.model, config.grad_clip)
    noise_norm = control.add_noise(run, grad_norm)  # run.noise.add_(step): g_t += sigma_0 gamma^t xi_t
    run.scaler.step(run.optimizer)
    run.scaler.update()
    control.after_update(run)
    run.optimizer.zero_grad(set_to_none=True)
    run.history[step] = torch.stack((loss, grad_norm, noise_norm))
    run.step += 1


def accumulate(run):
    """The mean loss of this iteration's micro-steps over this rank's rows, a 0-dim tensor; its gradient is
    added to the parameters'.

    Dropout is a function of the step and the rank. Rank 0 leaves its number out of the seed, so that its
    dropout is that of a run in one process.
    """
    config, loss = run.config, 0.0
    rows = run.ranks.shard(config.batch_size)
    own_stream = [run.ranks.rank] if run.ranks.rank else []
    for micro_step in range(config.gradient_accumulation_steps):
        x, y = run.batch(micro_step)  # each (batch_size, T)
        if config.dropout:
            torch.manual_seed(stream_seed(config.seed, "dropout", run.step, micro_step, *own_stream))
        with run.machine.autocast():
            micro_loss = run.model(x[rows], y[rows])[1] / config.gradient_accumulation_steps
        run.scaler.scale(micro_loss).backward()
        loss += micro_loss.detach()
    return loss


def clip(model, max_norm):
    """Clip the gradients to a global norm, 0 for not at all; returns the norm they had, a 0-dim tensor."""
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    if max_norm:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm


def learning_rate(step, config):
    """Linear warm-up from learning_rate / (warmup_iters + 1), then a cosine down to min_lr at
    lr_decay_iters."""
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if step >= config.lr_decay_iters:
        return config.min_lr
    progress = (step - config.warmup_iters) / (config.lr_decay_iters - config.warmup_iters)
    return config.min_lr + (config.learning_rate - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2


@on_rank0
def print_sample(run, folder):
    """The text that sample.py prints first with the run's seed, from the best weights."""
    model, config = lifecycle.best_model(run, folder).eval(), run.config
    (text,) = samples(model, run.corpus.meta, max_new_tokens=config.sample_tokens, seed=config.seed)
    print(f"\n--- a sample of the best weights ---\n{text}\n---")


if __name__ == "__main__":
    run_script_at_once(main)
