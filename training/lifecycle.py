"""The life of a run and its folder: set up, begin or resume, checkpoint, evaluate, finish, give up.

Of several processes, rank 0 does what writes, and every rank gets the result.
"""

import dataclasses
import math
import sys
import time
from datetime import UTC, datetime

from config import UserError, differences, load
from data.corpus import Corpus
from training import mirrors
from training.distributed import Ending, on_rank0
from training.evaluate import bits, mean_loss, model_in
from training.machine import Machine, enough_memory, out_of_memory, versions
from training.pretrained import check_same, needs_source, read_source
from training.run import Diverged, Run, compile_model
from training.run_files import corpus_title, read_about, read_log, read_result
from training.shape import check_memory, slow_to_build

DIVERGED = 3  # exit status
USE_LESS_MEMORY = (
    "halve batch_size and double gradient_accumulation_steps, or make n_embd, n_layer or block_size smaller"
)
LONG = 3600  # seconds; a longer run says so first
WITHOUT = {"graphs": "on", "on": "off"}  # option compile, where what it asks for fails


class Stopped(Ending):
    """A signal asked the run to stop, and the checkpoint is written."""

    def __init__(self, signal_number):
        super().__init__(signal_number)
        self.signal = signal_number


# Before the first step.


def set_up(argv, ranks):
    """(config, machine, corpus, source of the starting weights or None) of a command line. UserError for any
    mistake in it, before the run folder is touched."""
    config, machine = ranks.rank0_first(choose, argv, ranks)
    with enough_memory(machine.device, USE_LESS_MEMORY):
        corpus = ranks.rank0_first(open_corpus, config, machine)
        source = ranks.rank0_first(read_source, config, corpus.meta)
    changed = "init_from is being trained, and has changed while it was read: start again"
    ranks.check_alike(source and source.record["sha256"], changed)
    differ = (
        f"the processes' cards are not all {machine.name}: choose cards of one model by CUDA_VISIBLE_DEVICES"
    )
    ranks.check_alike([machine.name, machine.dtype, machine.through_float32], differ)  # which noise they draw
    return config, machine, corpus, source


def choose(argv, ranks):
    if not argv:
        raise UserError("which config? python train.py config/shakespeare_noise.py config/cpu.py")
    config = load(argv)
    mirrors.check(config)
    needs_source(config)  # a missing one is reported before a corpus is fetched
    ranks.shard(config.batch_size)
    machine = Machine.choose(config, ranks.rank, ranks.size)
    check_memory(config, machine)  # of the least vocabulary, before a corpus is fetched
    return config, machine


def open_corpus(config, machine):
    corpus = Corpus(config.dataset, machine.device, config.train_tokens)
    corpus.check_length(config.block_size)
    check_memory(config, machine, corpus.meta["vocab_size"])
    return corpus


def begin_or_resume(folder, config, machine, corpus, source, ranks, kind=Run):
    """The Run that belongs in this folder, at the step that it has reached; None where it has ended already.

    kind: the class of the run, a training.run.Trained.
    """
    resuming = ranks.on_rank0(folder.prepare, config, corpus.meta)
    if resuming and ranks.on_rank0(read_result, folder.path):
        return None
    if resuming:
        machine = machine.as_recorded(read_about(folder.path)["machine"])
    if kind is Run and ranks.is_main and slow_to_build(config, corpus.meta["vocab_size"]):
        print("building the model", flush=True)
    run = kind(config, corpus, machine, source, ranks)
    (resume if resuming else begin)(run, folder)
    if not ranks.is_main and (state := folder.load("last.pt")):
        run.restore(state)
    if ranks.is_main:
        folder.mirrors = mirrors.open_mirrors(config, folder.path)
    announce(run, folder)
    return run


def exit_status(folder):
    """That of a run that has ended already, and says so."""
    status = read_result(folder.path)["status"]
    print(f"{folder.path}: {status} already; --overwrite=True begins afresh")
    return 0 if status == "finished" else DIVERGED


@on_rank0
def begin(run, folder):
    """Make the folder say what the run is. config.json comes last: with it, the folder is a run."""
    about = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": run.machine.record(),
        "versions": versions(run.packages),
        "seeds": {"seed": run.config.seed, "data_seed": run.config.data_seed},
        "parameters": run.parameter_count(),
        "corpus": run.corpus.meta,
        "init_from": run.source_record,
        "resumed": [],
    }
    folder.write("run.json", about)
    folder.cut_log(0)
    if run.pretrained:
        folder.save("start.pt", run.pretrained)
    folder.write("config.json", dataclasses.asdict(run.config))


@on_rank0
def resume(run, folder):
    """Bring the run to where its folder says it was, and the folder's log with it."""
    about = read_about(folder.path)
    state, fault = folder.load_last()
    if state:
        try:
            run.restore(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if out_of_memory(error):
                raise
            raise UserError(f"{folder.path / 'last.pt'} is no checkpoint of this run: restore it") from None
    if run.source_record or (run.config.init_from and not state):
        check_same(run.source_record, about.get("init_from"), folder.path)
    if run.config.init_from and not run.pretrained:
        run.pretrained = load_pretrained(folder, run)
    lost = {"checkpoint": fault, "log": folder.cut_log(run.step, (state or {}).get("log"))}
    lost = {what: words for what, words in lost.items() if words}
    best = folder.load("best.pt")
    if best and not (0 <= best["iter"] <= run.config.max_iters and math.isfinite(best["val_loss"])):
        raise UserError(f"{folder.path / 'best.pt'} is no checkpoint of this run: restore it")
    went_back = fault or any("checkpoint" in part.get("lost", {}) for part in about["resumed"])
    if best and best["iter"] > run.step and not went_back:  # or else the run will come to it again
        raise lost_file(folder, "last.pt")
    if best:
        run.best = {"val_loss": best["val_loss"], "iter": best["iter"]}
    elif any(event["kind"] == "eval" for event in read_log(folder.path)[0]):
        raise lost_file(folder, "best.pt")
    if lost:
        print(
            f"{folder.path}: {'; '.join(lost.values())}; going on from the checkpoint of iteration {run.step:,}"
        )
    now = {"iter": run.step, "machine": run.machine.record(), "versions": versions(run.packages)}
    about["resumed"].append(now | ({"lost": lost} if lost else {}))
    folder.write("run.json", about)
    if fault:
        folder.take_previous()


def load_pretrained(folder, run):
    """The weights that the run began from, which its distance is measured from."""
    if weights := folder.load("start.pt"):
        shapes = {name: getattr(tensor, "shape", None) for name, tensor in weights.items()}
        if shapes != {name: parameter.shape for name, parameter in run.model.named_parameters()}:
            raise UserError(f"{folder.path / 'start.pt'} holds other weights than this run's: restore it")
        return {name: tensor.to(run.machine.device) for name, tensor in weights.items()}
    raise lost_file(folder, "start.pt")


def lost_file(folder, name):
    return UserError(f"{folder.path} has lost its {name}: restore it, or begin afresh with --overwrite=True")


def announce(run, folder):
    config = run.config
    changed = ", ".join(f"{name}={value!r}" for name, value in differences(config).items())
    print(f"config: {changed or 'the defaults'}")
    what = "texts" if run.corpus.meta["unit"] == "text" else "tokens"
    print(
        f"{folder.path}: {corpus_title(run.corpus.meta)}, {run.parameter_count():,} parameters,"
        f" {run.machine}; iterations {run.step:,} to {config.max_iters:,} of {config.tokens_per_iter:,} {what}",
        flush=True,
    )
    if words := run.describe_source():
        print(words, flush=True)


def warm_up(run, accumulate, folder=None):
    """Compile the model by passes that change nothing, and time one; returns how it is compiled: graphs, on or
    off.

    accumulate: train.py's. Where compilation fails, which shows at the first calls, the run goes on without it,
    and its folder says so.
    """
    how = "off" if not run.machine.compile else "graphs" if run.config.compile == "graphs" else "on"
    while not try_to_compile(run, accumulate, how):
        how = WITHOUT[how]
    if run.machine.compile and folder and run.ranks.all_reduce_max(int(how == "off")):
        run.machine = dataclasses.replace(run.machine, compile=False)
        record_machine(run, folder)
    seconds = throw_away(run, accumulate) * (run.config.max_iters - run.step)
    if seconds > LONG:
        shorter = "" if run.config.init_from else "; config/cpu.py after the other files makes it a short one"
        hours = f"{seconds / 3600:.1f} hours on {run.machine.name}"
        print(f"this run will take about {hours}, evaluations not counted{shorter}", flush=True)
    return how


def try_to_compile(run, accumulate, how):
    """Compile the model so; returns whether that worked, and says so if not."""
    try:
        compile_model(run.model, how)
        for _ in range(3 if how == "graphs" else 1):  # CUDA graphs are warmed up, captured and replayed
            throw_away(run, accumulate)
        return True
    except Exception as error:
        if how == "off" or out_of_memory(error):
            raise
        reason = " ".join([type(error).__name__, *str(error).strip().splitlines()[:2]])
        what, them = ("CUDA graphs", "them") if how == "graphs" else ("compilation", "it")
        print(f"{what} failed, going on without {them} ({reason}); --compile={WITHOUT[how]} avoids the attempt")
        return False


@on_rank0
def record_machine(run, folder):
    """Write into run.json how the run computes after all, in place of what it began or was resumed with."""
    about = read_about(folder.path)
    (about["resumed"] or [about])[-1]["machine"] = run.machine.record()
    folder.write("run.json", about)


def throw_away(run, accumulate):
    """One forward and backward pass, whose gradients are thrown away; returns its seconds."""
    began = time.perf_counter()
    float(accumulate(run))  # float() waits for the device
    run.optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - began


# On the way.


def save_checkpoint(run, folder):
    run.check_finite()
    with run.meter.paused():
        if not all(parameter.isfinite().all() for parameter in run.model.parameters()):
            raise Diverged(run.step - 1)
        folder.save_last(run.state())
        run.saved = run.step


# Not within work that rank 0 already does alone: it would wait for the others for ever.
checkpoint = on_rank0(save_checkpoint)


def losses_of(run):
    return {"train_loss": train_loss(run), "val_loss": val_loss(run)}


@on_rank0
def evaluate(run, folder, losses=losses_of):
    """Log the losses over the fixed windows; keep the weights if none before had a lower val loss.

    losses: a function that gives them of a run, and more with them.
    """
    run.check_finite()
    with run.meter.paused():
        event = {
            "kind": "eval",
            "iter": run.step,
            "tokens": run.step * run.config.tokens_per_iter,
            **losses(run),
            "seconds": run.meter.seconds(),
        }
        if not math.isfinite(event["val_loss"]):
            raise Diverged(max(0, run.step - 1))
        folder.append(event)
        for kind, moved in run.distances().items():
            folder.append({"kind": kind, "iter": run.step, **moved})
    if event["val_loss"] < run.best["val_loss"]:
        save_best(run, folder, event["val_loss"])
    return event


def save_best(run, folder, val_loss):
    """Save these weights as the best, and before them a checkpoint. On a GPU a resumed run may take a slightly
    different path, and would never reach a best from beyond its last checkpoint again."""
    if run.step and run.saved != run.step:
        save_checkpoint(run, folder)
    with run.meter.paused():
        run.best = {"val_loss": val_loss, "iter": run.step}
        folder.save("best.pt", {"model": run.weights(), **run.best})


def val_loss(run):
    """Over fixed windows of the val split, at most eval_tokens."""
    return mean_loss(run.model, run.corpus.windows("val", run.config.block_size, run.config.eval_tokens))


def train_loss(run):
    """Dropout off, over fixed windows of the train split."""
    return mean_loss(
        run.model, run.corpus.windows("train", run.config.block_size, run.config.eval_train_tokens)
    )


def update_plateau(run):
    """Give the plateau rule a val loss, at its own interval: evaluating more often must change no weight."""
    if run.config.noise_schedule == "plateau" and run.step % run.config.plateau_interval == 0:
        with run.meter.paused():
            run.noise.sigma.observe(run.ranks.on_rank0(val_loss, run))


@on_rank0
def log(run, folder):
    """Log the iteration just done; its loss is the mean over the last log_interval iterations."""
    config, iteration = run.config, run.step - 1
    run.check_finite()
    rows = run.history[max(0, run.step - config.log_interval) : run.step].cpu()
    _, grad_norm, noise_norm = rows[-1].tolist()
    event = {
        "kind": "train",
        "iter": iteration,
        "tokens": run.step * config.tokens_per_iter,
        "loss": rows[:, 0].mean().item(),
        "lr": float(run.optimizer.param_groups[0]["lr"]),
        "sigma": run.noise.sigma(iteration),
        "grad_norm": grad_norm,
        "clipped_norm": min(grad_norm, config.grad_clip or math.inf) if math.isfinite(grad_norm) else None,
        "noise_norm": noise_norm,
        "skipped_steps": run.skipped_steps(),
        "tokens_per_second": run.meter.tokens_per_second(run.step),
    }
    folder.append(event)
    return event


def log_diagnosis(run, folder):
    """Log what the iteration just done was measured to consist of, if it was."""
    if measured := run.control.measured:
        event = {"kind": "diagnosis", "iter": run.step - 1}
        run.ranks.on_rank0(
            lambda: folder.append(event | {name: float(value) for name, value in measured.items()})
        )


# At the end.


@on_rank0
def finish(run, folder):
    """Evaluate the whole splits with the last and with the best weights, and write result.json."""
    last_is_best = run.best["iter"] == run.step
    best = run.model if last_is_best else best_model(run, folder)
    losses = {
        "best_val_loss": run.best["val_loss"],
        "final_train_loss": train_loss(run),
        "minibatch_loss_last100": run.history[-100:, 0].mean().item(),
    }
    splits = [split for split in run.corpus.tokens if split != "train"]
    print(f"evaluating the whole of {' and '.join(splits)}", flush=True)
    for split in splits:
        final = mean_loss(run.model, run.corpus.windows(split, run.config.block_size))
        losses[f"final_{split}_loss"] = losses[f"best_weights_{split}_loss"] = final
        if not last_is_best:
            windows = run.corpus.windows(split, run.config.block_size)
            losses[f"best_weights_{split}_loss"] = mean_loss(best, windows)
    losses |= {
        name.replace("loss", "bpc"): bits(loss, run.corpus.meta, split_of(name))
        for name, loss in losses.items()
    }
    folder.write("result.json", {"status": "finished", **losses, **run_summary(run)})
    per_token = run.corpus.meta["unit"] == "token"
    in_bits = f" ({losses['final_val_bpc']:.4f} bits a character)" if per_token else ""
    print(
        f"finished in {run.meter.seconds():.0f} s: val loss {losses['final_val_loss']:.4f}{in_bits}, train loss"
        f" {losses['final_train_loss']:.4f}; the best evaluation was {run.best['val_loss']:.4f} at iteration"
        f" {run.best['iter']:,}"
    )


def best_model(run, folder):
    if not (found := folder.load("best.pt")):
        raise lost_file(folder, "best.pt")
    if {"val_loss": found.get("val_loss"), "iter": found.get("iter")} != run.best:
        raise UserError(f"{folder.path / 'best.pt'} is no checkpoint of this run: restore it")
    return model_in(found, run.corpus.meta, folder.path / "best.pt").to(run.machine.device)


def split_of(name):
    """The split that a loss of result.json is of; mini-batches are of the train split."""
    return next((split for split in ("val", "test") if split in name), "train")


def run_summary(run):
    """What result.json has beside the losses."""
    return {
        "best_iter": run.best["iter"],
        "iterations": run.step,
        "tokens": run.step * run.config.tokens_per_iter,
        "skipped_steps": run.skipped_steps(),
        "seconds": run.meter.seconds(),
        "peak_memory_bytes": run.machine.peak_memory(),
        "device": run.machine.name,
        "compiled": run.machine.compile,
    }


def stopped(run, signal_number):
    """Say how to go on; returns the exit status."""
    command = "the same command, without --overwrite," if run.config.overwrite else "the same command"
    print(f"stopped after {run.step:,} iterations; {command} continues from there")
    return 128 + signal_number


@on_rank0
def write_diverged(run, folder, iteration):
    """Write result.json: a diverged run is a result too, and the same command would diverge again."""
    best = {"best_val_loss": run.best["val_loss"]}
    result = {"status": "diverged", "diverged_at": iteration, **best, **run_summary(run)}
    folder.write("result.json", result)
    kept = [name for name in ("last.pt", "best.pt") if (folder.path / name).exists()]
    advice = "lower learning_rate or noise_sigma" + ("" if run.config.grad_clip else ", or clip by grad_clip")
    print(
        f"error: the loss or its gradient is not finite at iteration {iteration:,}: {advice}."
        f" {folder.path} keeps from before it: {', '.join(kept) or 'nothing'}",
        file=sys.stderr,
    )
    return DIVERGED
