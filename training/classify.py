"""Fine-tune an encoder to classify texts, with or without NoisyTune and gradient noise.

    python -m training.classify config/glue/rte.py [more files] [--key=value ...]
    python -m training.classify --task=mine.tsv --model=models/minilm --noisytune_lambda=0.15

A run is a function of its config, its texts, its model and its seed, and lives in a run folder as train.py's
do: the same command resumes it, and sweep.py, plot.py and analysis.collect take it as they take those.
docs/glue.md tells of the tasks, the tables and the model.
"""

import sys
import warnings

from config import UserError, before_torch, load, run_script, user_path
from config._classify import Classify

if __name__ == "__main__":
    before_torch(sys.argv[1:], Classify)

import torch

from data.files import remove
from data.texts import read_task
from noise import stream_seed
from training import encoder, lifecycle, mirrors
from training.distributed import SingleProcess, world_size
from training.encoder_run import EncoderMachine, EncoderRun, evaluation
from training.machine import enough_memory
from training.run import Diverged
from training.run_files import read_log
from training.run_folder import RunFolder
from training.terminal import Progress, Signals, starter

USE_LESS_MEMORY = "make batch_size or max_length smaller"


def main(argv):
    """Train the run that a command line describes, from the step that its folder has; returns the exit
    status."""
    config, ranks = load(argv, kind=Classify), SingleProcess(starter())
    if world_size() > 1:
        raise UserError("training.classify trains in one process: start it without torchrun")
    mirrors.check(config)
    encoder.check_packages()
    machine = EncoderMachine.choose(config)
    with enough_memory(machine.device, USE_LESS_MEMORY):
        task = read_task(config.task, config.val_file)
        source = None if has_ended(config) else encoder.read_encoder(config, task)
        with RunFolder(config.out_dir) as folder:
            run = lifecycle.begin_or_resume(folder, config, machine, task, source, ranks, EncoderRun)
            status = train_to_end(run, folder) if run else lifecycle.exit_status(folder)
            if not (status or config.keep_weights):
                remove(folder.path, ["last.pt", "best.pt"])
            return status


def has_ended(config):
    return not config.overwrite and (user_path(config.out_dir) / "result.json").exists()


def train_to_end(run, folder):
    """Train, then write the result; returns the exit status."""
    try:
        with Signals(parent=run.ranks.parent) as signals:
            train(run, folder, signals)
        finish(run, folder)
        return 0
    except lifecycle.Stopped as stop:
        return lifecycle.stopped(run, stop.signal)
    except Diverged as end:
        return lifecycle.write_diverged(run, folder, end.iteration)


def train(run, folder, signals):
    """From the step that the run has reached to max_iters: checkpoint, evaluate, step, log; as in train.py."""
    config, began_at = run.config, run.step
    run.meter.start(run.step)
    with Progress(run.step, config.max_iters, unit="texts") as progress:
        while True:
            last, stop = run.step == config.max_iters, signals.caught
            due = last or run.step % config.checkpoint_interval == 0
            if (stop or due) and run.step > began_at:
                lifecycle.checkpoint(run, folder)
            if stop:
                raise lifecycle.Stopped(stop)
            if last or run.step % config.eval_interval == 0:
                progress.evaluating()
                progress.evaluated(lifecycle.evaluate(run, folder, evaluation))
            if last:
                return
            train_step(run)  # counts itself in run.step
            if run.is_logged(run.step - 1):
                progress.logged(lifecycle.log(run, folder))
            progress.stepped()


def train_step(run):
    """One iteration: backward, clip, add noise, update by AdamW. Dropout is a function of the step."""
    config, step = run.config, run.step
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    torch.manual_seed(stream_seed(config.seed, "dropout", step))
    run.model.train()
    with run.machine.autocast():
        loss = run.model(**run.batch()).loss
    run.scaler.scale(loss).backward()
    run.scaler.unscale_(run.optimizer)  # or the scaler would divide the noise too
    grad_norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.grad_clip or torch.inf)
    noise_norm = run.noise.add_(step, norm=True)  # g_t += sigma_t xi_t
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.history[step] = torch.stack((loss.detach(), grad_norm, noise_norm))
    run.step += 1


def learning_rate(step, config):
    """Linear warm-up from learning_rate / (warmup_iters + 1), then linear to 0 at max_iters."""
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    return config.learning_rate * (config.max_iters - step) / (config.max_iters - config.warmup_iters)


def finish(run, folder):
    """Write result.json: the last evaluation, and the best of all, which are in the log."""
    events = read_log(folder.path)[0]
    evals = [event for event in events if event["kind"] == "eval"]
    final = {name: value for name, value in evals[-1].items() if name.startswith(("train_", "val_"))}
    result = {
        "best_val_loss": run.best["val_loss"],
        "best_val_score": max(event["val_score"] for event in evals),
        "minibatch_loss_last100": run.history[-100:, 0].mean().item(),
        **{f"final_{name}": value for name, value in final.items()},
        **{f"final_{kind}": moved["all"] for kind, moved in run.distances().items()},
    }
    folder.write("result.json", {"status": "finished", **result, **lifecycle.run_summary(run)})
    print(
        f"finished in {run.meter.seconds():.0f} s: val score {final['val_score']:.4f}, val loss"
        f" {final['val_loss']:.4f}, train loss {final['train_loss']:.4f}; the best evaluations were"
        f" {result['best_val_score']:.4f} and {run.best['val_loss']:.4f}"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of transformers, for its own users
    run_script(main)
