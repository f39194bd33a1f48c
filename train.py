"""Train one small GPT, with or without gradient noise.

    python train.py config/shakespeare_noise.py [more files] [--key=value ...]

A run is a function of its config, its corpus and its seed. It lives in a run folder (runs.py says what is in
it), from which it resumes if it was stopped, and from which plot.py draws it.

    torchrun --nproc_per_node=2 train.py config/shakespeare_noise.py

trains it in two processes, each with its share of every batch's rows (and dropout masks of its own).

Exit status: 0 finished, 2 a mistake in the command, 3 diverged, 128 + n stopped by signal n.
"""

import dataclasses
import math
import subprocess
import sys
import time
from datetime import UTC, datetime

from config import ROOT, UserError, differences, load
from data.corpus import Corpus
from model import GPT
from sample import samples
from training.distributed import Ending, joined, run_script_at_once
from training.evaluate import bits, mean_loss
from training.machine import Machine, enough_memory, out_of_memory, versions
from training.pretrained import check_same, describe, needs_source, read_source
from training.run_folder import RunFolder, corpus_title, read_log
from training.step import (
    Diverged,
    Training,
    accumulate,
    learning_rate,
    moved,
    train_loss,
    train_step,
    val_loss,
)
from training.terminal import Progress, Signals

DIVERGED = 3  # exit status
SMALLER = (
    "halve batch_size and double gradient_accumulation_steps, or make n_embd, n_layer or block_size smaller"
)
LONG = 3600  # seconds; a run that will take longer says so first


def main(argv):
    with joined() as ranks:
        config, machine = ranks.main_first(choose, argv, ranks)
        with enough_memory(machine.device, SMALLER):
            corpus = ranks.main_first(open_corpus, config, machine)
            source = ranks.main_first(read_source, config, corpus.meta)
            check_same_source(source, ranks)
            with RunFolder(config.out_dir, writes=ranks.main) as folder:
                status = train_in(folder, config, corpus, machine, ranks, source)
    if config.plot and status == 0 and ranks.main:
        subprocess.run([sys.executable, ROOT / "plot.py", folder.path], check=False)
    return status


def choose(argv, ranks):
    config = load(argv)
    needs_source(config)  # to be told of a missing one before a corpus is fetched
    ranks.rows(config.batch_size)
    return config, Machine.choose(config, ranks.rank, ranks.size)


def open_corpus(config, machine):
    corpus = Corpus(config.dataset, machine.device, config.train_tokens)
    corpus.check_length(config.block_size)
    return corpus


def check_same_source(source, ranks):
    """UserError where the processes of one run have read different weights, of a run that still trains."""
    mine = source and source.about["sha256"]
    if mine != ranks.main_only(lambda: mine):
        raise UserError("init_from is being trained, and has changed while it was read: start again")


def train_in(folder, config, corpus, machine, ranks, source=None):
    """The run that this folder is for, from where it was left to its end; returns the exit status."""
    resuming = ranks.main_only(folder.admit, config, corpus.meta)
    if resuming and (result := folder.read("result.json")):
        print(f"{folder.path}: {result['status']} already; --overwrite=True begins afresh")
        return 0 if result["status"] == "finished" else DIVERGED
    if resuming:
        machine = machine.as_recorded(folder.read("run.json")["machine"])
    t = Training(config, corpus, machine, source, ranks)
    ranks.main_only(resume if resuming else begin, t, folder)
    if not ranks.main:
        follow(t, folder)
    announce(t, folder)
    try:
        with Signals(silent=not ranks.main) as signals:
            rehearse(t)
            train(t, folder, signals)
        ranks.main_only(finish, t, folder)
    except Stopped as stop:
        command = "the same command, without --overwrite," if config.overwrite else "the same command"
        print(f"stopped after {t.step:,} iterations; {command} continues from there")
        return 128 + stop.signal
    except Diverged as end:
        return ranks.main_only(give_up, t, folder, end.iteration)
    if config.sample_tokens:
        ranks.main_only(print_sample, t, folder)
    return 0


class Stopped(Ending):
    """A signal asked the run to stop, and the checkpoint is written."""

    def __init__(self, signal_number):
        super().__init__(signal_number)
        self.signal = signal_number


def begin(t, folder):
    """Make the folder say what the run is. config.json comes last: with it, the folder is a run."""
    folder.cut_log(0)
    run = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": t.machine.record(),
        "versions": versions(),
        "seeds": {"seed": t.config.seed, "data_seed": t.config.data_seed},
        "parameters": t.model.parameter_count(),
        "corpus": t.corpus.meta,
        "init_from": t.start,
        "resumed": [],
    }
    if t.pretrained:
        folder.save("start.pt", t.pretrained)
    folder.write("run.json", run)
    folder.write("config.json", dataclasses.asdict(t.config))


def resume(t, folder):
    """Bring the run to where its folder says it was, and the folder's log with it."""
    run = folder.read("run.json")
    if state := folder.load("last.pt"):
        try:
            t.restore(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            if out_of_memory(error):
                raise
            raise UserError(f"{folder.path / 'last.pt'} is no checkpoint of this run: restore it") from None
    elif t.config.init_from:
        check_same(t.start, run.get("init_from"), folder.path)
    if t.config.init_from and not t.pretrained:
        t.pretrained = pretrained_in(folder, t.machine.device)
    folder.cut_log(t.step)
    if best := folder.load("best.pt"):
        t.best = {"val_loss": best["val_loss"], "iter": best["iter"]}
    elif any(event["kind"] == "eval" for event in read_log(folder.path)[0]):
        raise UserError(
            f"{folder.path} has lost its best.pt: restore it, or begin afresh with --overwrite=True"
        )
    run["resumed"].append({"iter": t.step, "machine": t.machine.record(), "versions": versions()})
    folder.write("run.json", run)


def pretrained_in(folder, device):
    """The weights that the run began from, by which it tells how far it has moved."""
    if weights := folder.load("start.pt"):
        return {name: tensor.to(device) for name, tensor in weights.items()}
    raise UserError(f"{folder.path} has lost its start.pt: restore it, or begin afresh with --overwrite=True")


def follow(t, folder):
    """On the other ranks, once rank 0 has resumed the run or begun it: come to where it is."""
    if state := folder.load("last.pt"):
        t.restore(state)


def announce(t, folder):
    config = t.config
    changed = ", ".join(f"{name}={value!r}" for name, value in differences(config).items())
    print(f"config: {changed or 'the defaults'}")
    print(
        f"{folder.path}: {corpus_title(t.corpus.meta)}, {t.model.parameter_count():,} parameters, {t.machine};"
        f" iterations {t.step:,} to {config.max_iters:,} of {config.tokens_per_iter:,} tokens",
        flush=True,
    )
    if t.start:
        print(describe(t.start), flush=True)


def rehearse(t):
    """Two forward and backward passes that change nothing: they compile, and tell how long the run will be.

    Where compilation fails, which shows at the first call at the latest, the run goes on without it.
    """
    try:
        t.model.compile_blocks(on=t.machine.compile)
        float(accumulate(t))
    except Exception as error:
        if not t.machine.compile or out_of_memory(error):
            raise
        reason = " ".join([type(error).__name__, *str(error).strip().splitlines()[:2]])
        print(f"compilation failed, going on without it ({reason}); --compile=off avoids the attempt")
        t.model.compile_blocks(on=False)
    began = time.perf_counter()
    float(accumulate(t))  # float() waits for the device
    seconds = (time.perf_counter() - began) * (t.config.max_iters - t.step)
    t.optimizer.zero_grad(set_to_none=True)
    if seconds > LONG:
        shorter = "" if t.config.init_from else "; config/cpu.py after the other files makes it a short one"
        hours = f"{seconds / 3600:.1f} hours on {t.machine.name}"
        print(f"this run will take about {hours}, evaluations not counted{shorter}", flush=True)


def train(t, folder, signals):
    """From the step that the run has reached to max_iters: checkpoint, evaluate, step, log.

    The ranks agree before each step whether a signal asks one of them to stop.
    A checkpoint at step s holds what was before the evaluation at s, which a resume does again.
    """
    config, begun_at = t.config, t.step
    t.meter.start(t.step)
    with Progress(t.step, config.max_iters, silent=not t.ranks.main) as progress:
        while True:
            last = t.step == config.max_iters
            due = last or t.step % config.checkpoint_interval == 0
            stop = t.ranks.largest(signals.caught)
            if stop or (due and t.step > begun_at):
                t.ranks.main_only(checkpoint, t, folder)
            if stop:
                raise Stopped(stop)
            if last or t.step % config.eval_interval == 0:
                progress.evaluated(t.ranks.main_only(evaluate, t, folder))
            if last and (stop := t.ranks.largest(signals.caught)):  # the losses of the whole splits take long
                raise Stopped(stop)
            if last:
                return
            steer(t)
            train_step(t)
            if (t.step - 1) % config.log_interval == 0 or t.step == config.max_iters:
                progress.logged(t.ranks.main_only(log, t, folder))
            if t.measured:
                t.ranks.main_only(log_measured, t, folder)
                t.measured = None
            progress.stepped()


def checkpoint(t, folder):
    t.check_finite()
    with t.meter.paused():
        if not all(parameter.isfinite().all() for parameter in t.model.parameters()):
            raise Diverged(t.step - 1)
        folder.save("last.pt", t.state())
        t.saved = t.step


def evaluate(t, folder):
    """Log the losses over the fixed windows; keep the weights if none before had a lower val loss."""
    config = t.config
    t.check_finite()
    with t.meter.paused():
        event = {
            "kind": "eval",
            "iter": t.step,
            "tokens": t.step * config.tokens_per_iter,
            "train_loss": train_loss(t),
            "val_loss": val_loss(t),
            "seconds": t.meter.seconds(),
        }
        if not math.isfinite(event["val_loss"]):
            raise Diverged(max(0, t.step - 1))
        folder.append(event)
        if t.pretrained:
            folder.append({"kind": "distance", "iter": t.step, **moved(t)})
    if event["val_loss"] < t.best["val_loss"]:
        keep_best(t, folder, event["val_loss"])
    return event


def keep_best(t, folder, val_loss):
    """Save these weights as the best, and before them a checkpoint: a best from beyond last.pt might not come
    again after a resume, where sums do not repeat."""
    if t.step and t.saved != t.step:
        checkpoint(t, folder)
    with t.meter.paused():
        t.best = {"val_loss": val_loss, "iter": t.step}
        folder.save("best.pt", {"model": t.model.weights(), **t.best})


def steer(t):
    """Tell the plateau rule a val loss, at a cadence of its own: looking more often must change nothing."""
    if t.config.noise_schedule == "plateau" and t.step % t.config.plateau_interval == 0:
        with t.meter.paused():
            t.noise.sigma.observe(t.ranks.main_only(val_loss, t))


def log(t, folder):
    """Log the iteration just done; its loss is the mean over the last log_interval iterations."""
    config, iteration = t.config, t.step - 1
    t.check_finite()
    rows = t.trace[max(0, t.step - config.log_interval) : t.step].cpu()
    _, grad_norm, noise_norm, factor = rows[-1].tolist()
    event = {
        "kind": "train",
        "iter": iteration,
        "tokens": t.step * config.tokens_per_iter,
        "loss": rows[:, 0].mean().item(),
        "lr": learning_rate(iteration, config) * factor,
        "sigma": t.noise.sigma(iteration),
        "grad_norm": grad_norm,
        "clipped_norm": min(grad_norm, config.grad_clip or math.inf) if math.isfinite(grad_norm) else None,
        "noise_norm": noise_norm,
        "skipped_steps": t.skipped_steps(),
        "tokens_per_second": t.meter.tokens_per_second(t.step),
    }
    folder.append(event)
    return event


def log_measured(t, folder):
    """Log what the iteration just done was found to consist of (diagnose.py)."""
    values = {name: float(value) for name, value in t.measured.items()}
    folder.append({"kind": "diagnosis", "iter": t.step - 1, **values})


def finish(t, folder):
    """Evaluate the whole splits with the last and with the best weights, and write result.json."""
    last_is_best = t.best["iter"] == t.step
    best = t.model if last_is_best else GPT.from_weights(folder.load("best.pt")["model"], t.machine.device)
    losses = {
        "best_val_loss": t.best["val_loss"],
        "final_train_loss": train_loss(t),
        "minibatch_loss_last100": t.trace[-100:, 0].mean().item(),
    }
    splits = [split for split in t.corpus.tokens if split != "train"]
    print(f"evaluating the whole of {' and '.join(splits)}", flush=True)
    for split in splits:
        final = mean_loss(t.model, t.corpus.windows(split, t.config.block_size))
        losses[f"final_{split}_loss"] = losses[f"best_weights_{split}_loss"] = final
        if not last_is_best:
            windows = t.corpus.windows(split, t.config.block_size)
            losses[f"best_weights_{split}_loss"] = mean_loss(best, windows)
    losses |= {
        name.replace("loss", "bpc"): bits(loss, t.corpus.meta, split_of(name)) for name, loss in losses.items()
    }
    folder.write("result.json", {"status": "finished", **losses, **facts(t)})
    in_bits = f" ({losses['final_val_bpc']:.4f} bits a character)" if t.corpus.meta["unit"] == "token" else ""
    print(
        f"finished in {t.meter.seconds():.0f} s: val loss {losses['final_val_loss']:.4f}{in_bits}, train loss"
        f" {losses['final_train_loss']:.4f}; the best evaluation was {t.best['val_loss']:.4f} at iteration"
        f" {t.best['iter']:,}"
    )


def split_of(name):
    """The split that a loss of result.json is of; mini-batches are of the train split."""
    return next((split for split in ("val", "test") if split in name), "train")


def give_up(t, folder, iteration):
    """A diverged run is a result too: the same command would only diverge again."""
    best = {"best_val_loss": t.best["val_loss"]}
    folder.write("result.json", {"status": "diverged", "diverged_at": iteration, **best, **facts(t)})
    kept = [name for name in ("last.pt", "best.pt") if (folder.path / name).exists()]
    mend = "lower learning_rate or noise_sigma" + ("" if t.config.grad_clip else ", or clip by grad_clip")
    print(
        f"error: the loss or its gradient is not finite at iteration {iteration:,}: {mend}."
        f" {folder.path} keeps from before it: {', '.join(kept) or 'nothing'}",
        file=sys.stderr,
    )
    return DIVERGED


def facts(t):
    """What result.json tells of a run beside its losses."""
    return {
        "best_iter": t.best["iter"],
        "iterations": t.step,
        "tokens": t.step * t.config.tokens_per_iter,
        "skipped_steps": t.skipped_steps(),
        "seconds": t.meter.seconds(),
        "peak_memory_bytes": t.machine.peak_memory(),
        "device": t.machine.name,
        "compiled": t.model.compiled,
    }


def print_sample(t, folder):
    """The text that sample.py draws first with the run's seed, from the best weights."""
    model = GPT.from_weights(folder.load("best.pt")["model"], t.machine.device).eval()
    (text,) = samples(model, t.corpus.meta, max_new_tokens=t.config.sample_tokens, seed=t.config.seed)
    print(f"\n--- a sample of the best weights ---\n{text}\n---")


if __name__ == "__main__":
    run_script_at_once(main)
