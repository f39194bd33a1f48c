"""The log where people look: TensorBoard and Weights & Biases, fed with the events of log.jsonl.

That stays the truth. A process that goes on with a run feeds all of it anew, in place of what earlier ones fed,
so that a curve has each point once. Both packages are imported only where they are asked for.
"""

import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import shutil

from config import UserError
from data.files import files_like, read_json, remove
from training.run_files import EVENT_FILES, read_about, read_log
from training.run_folder import LENGTHS

PACKAGES = {"tensorboard": "tensorboard", "wandb_log": "wandb"}  # of an option


def check(config):
    """UserError where an option needs a package that is not there."""
    for option, package in PACKAGES.items():
        if getattr(config, option) and not getattr(importlib.util.find_spec(package), "origin", None):
            raise UserError(f"{option} needs {package}: pip install -r requirements-logs.txt, or leave it out")


def open_mirrors(config, path):
    """The mirrors that a Config asks for of the run in a folder, fed with the log that there is."""
    asked = [kind for option, kind in KINDS.items() if getattr(config, option)]
    mirrors = [kind(config, path) for kind in asked]
    for event in read_log(path)[0] if mirrors else []:
        for mirror in mirrors:
            mirror.feed(event)
    return mirrors


def scalars(event):
    """{"train/loss": ..., "eval/val_loss": ..., ...} of a log event."""
    values = {name: value for name, value in event.items() if name not in ("kind", "iter")}
    return {
        f"{event['kind']}/{name}": value
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }


class TensorBoard:
    """Event files in the run's folder tensorboard."""

    def __init__(self, config, path):
        from torch.utils.tensorboard import SummaryWriter

        remove(path, files_like(path, EVENT_FILES))
        self.writer = SummaryWriter(path / "tensorboard")

    def feed(self, event):
        for name, value in scalars(event).items():
            self.writer.add_scalar(name, value, event["iter"])

    def close(self):
        self.writer.close()


class WandB:
    """A run of Weights & Biases, by way of the run's folder wandb.

    WANDB_MODE, WANDB_PROJECT and WANDB_NAME are its own variables. Its server keeps what it was told before and
    is told what follows; the offline runs of earlier processes go.
    """

    def __init__(self, config, path):
        import wandb

        key = run_key(path)
        for earlier in path.glob(f"wandb/offline-run-*-{key}"):
            shutil.rmtree(earlier)
        try:
            self.run = wandb.init(
                dir=path.resolve(),  # its writer is a process of its own, in another working folder
                id=key,
                resume="allow",
                name=os.environ.get("WANDB_NAME", path.as_posix()),
                config=dataclasses.asdict(config),
                settings=wandb.Settings(console="off", silent=True),
            )
        except (wandb.Error, ValueError) as error:  # the second of a wrong value in its variables
            raise UserError(f"wandb_log: {error}; WANDB_MODE=offline needs no account and no network") from None

    def feed(self, event):
        if event["iter"] >= self.run.starting_step:
            self.run.log(scalars(event), step=event["iter"])

    def close(self):
        self.run.finish()


KINDS = {"tensorboard": TensorBoard, "wandb_log": WandB}  # of an option


def run_key(path):
    """The same for each process that trains a run, and another for one that begins afresh in its folder."""
    options = {name: value for name, value in read_json(path / "config.json").items() if name not in LENGTHS}
    what = json.dumps([read_about(path)["began"], options])
    return hashlib.sha256(what.encode()).hexdigest()[:16]
