"""What `python -m bench.gpu check` measures of a card, each in a process of its own, which prints JSON last.

python -m bench.card step|largest CONFIG_FILES... --key=value
"""

import dataclasses
import gc
import json
from pathlib import Path

import torch

from bench.measure import run_folder, without_noise
from bench.our_loop import OurLoop
from bench.turns import clock, steps_in_turns
from config import load, run_script
from training import lifecycle
from training.machine import Machine, out_of_memory

ROOM = 14 * 2**30  # bytes that a card of 16 GB has for tensors: ECC and CUDA itself take up to 2 GiB


def step(config, corpus, machine):
    """A step with the noise and without, in turns, and what there is in a run beside steps."""
    noise = OurLoop(config, corpus, machine)
    noise.train_step()
    peak, compile_seconds = peak_memory(noise), noise.compile_seconds()
    quiet = OurLoop(without_noise(config), corpus, machine)
    seconds = steps_in_turns({"noise": noise, "quiet": quiet}, machine)
    with run_folder(Path("out")) as folder:
        return {
            **{"how": noise.how, "compile": compile_seconds, "seconds": seconds, "peak": peak},
            "cudagraph_skips": torch._dynamo.utils.counters["inductor"]["cudagraph_skips"],
            **{"flops_per_token": noise.model.flops_per_token(), "tokens": config.tokens_per_iter},
            "evaluation": min(clock(lambda: look(noise.run), machine) for _ in range(2)),
            "checkpoint": min(clock(lambda: noise.checkpoint(folder), machine) for _ in range(2)),
        }


def look(run):
    return lifecycle.val_loss(run), lifecycle.train_loss(run)


def peak_memory(loop):
    """Of two steps; on a CPU of the process so far."""
    if cuda := loop.machine.kind == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        loop.train_step()
    loop.machine.synchronize()
    return torch.cuda.max_memory_reserved() if cuda else loop.machine.peak_memory()


def largest(config, corpus, machine):
    """The largest batch that ROOM holds, by doubling; on a CPU, which has no such limit, twice the batch."""
    peaks, sizes = {}, 2
    if machine.kind == "cuda":
        total, sizes = torch.cuda.get_device_properties(machine.device).total_memory, 10
        torch.cuda.set_per_process_memory_fraction(min(1.0, ROOM / total), machine.device)
    try:
        for batch in (config.batch_size * 2**number for number in range(sizes)):
            loop = OurLoop(dataclasses.replace(config, batch_size=batch), corpus, machine)
            peaks[batch] = peak_memory(loop)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    return {"batch": max(peaks, default=None), "room": ROOM, "peaks": peaks}


def main(argv):
    config = load(argv[1:])
    machine = Machine.choose(config)
    corpus = lifecycle.open_corpus(config, machine)
    print(json.dumps({"step": step, "largest": largest}[argv[0]](config, corpus, machine)))
    return 0


if __name__ == "__main__":
    run_script(main)
