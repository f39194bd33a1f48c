"""Stands in for train.py in the tests of sweep.py: a run that only counts, in a real run folder."""

import dataclasses
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from made_up import MACHINE, META

from config import UserError, load, run_script
from data.files import read_json
from training.run_files import LOSSES
from training.run_folder import RunFolder
from training.terminal import Signals, starter

STEP, STOP = 0.01, 0.6  # seconds that a step takes, and the checkpoint at a stop


def main(argv):
    config = load(argv)
    if config.block_size > 1000:
        raise UserError("the val split is too short")
    with RunFolder(config.out_dir) as folder, Signals(parent=starter()) as signals:
        step = (read_json(folder.path / "last.json") or {"step": 0})["step"]
        folder.cut_log(step)
        about = {"machine": MACHINE, "versions": {}, "parameters": 1, "corpus": META, "resumed": []}
        folder.write("run.json", about)
        folder.write("config.json", dataclasses.asdict(config))
        while step < config.max_iters:
            folder.append({"kind": "train", "iter": step, "loss": 2.0})
            time.sleep(STEP)
            step += 1
            if signals.caught:
                time.sleep(STOP)
            if step % config.checkpoint_interval == 0 or signals.caught:
                folder.write("last.json", {"step": step})
            if signals.caught:
                return 128 + signals.caught
        result = {"status": "finished", **dict.fromkeys(LOSSES, 2.0), "best_val_loss": 1.5}
        if config.learning_rate > 1e20:
            result = {"status": "diverged", "diverged_at": 5, "best_val_loss": 1.5}
        counts = {"best_iter": 0, "iterations": step, "tokens": step, "seconds": step * STEP}
        folder.write("result.json", result | counts)
    return 3 if result["status"] == "diverged" else 0


if __name__ == "__main__":
    run_script(main)
