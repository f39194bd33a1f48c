"""Text from a run's weights, whether it is finished or still in training.

    python sample.py RUN --prompt="ROMEO:" --num_samples=3 --temperature=0.8

RUN is a run folder, or a model that training.export wrote; nothing else is needed, not even the corpus.
Sample i is a function of the weights, the prompt, the options and (seed, i): asking for more samples does not
change the first ones. On another machine, or in a batch of another size, sums may round differently, which
rarely changes a draw.
"""

import argparse
import math
import sys

import torch

from config import Parser, UserError, did_you_mean, run_script, settle, user_path
from data.corpus import decode, encode, symbol_indices
from noise import stream_seed
from training import gpt2
from training.evaluate import exported_model, model_in
from training.machine import Machine, enough_memory
from training.run_files import best_checkpoint, corpus_meta

TOGETHER = 64  # samples a batch, at most


def main(argv):
    options = read_options(argv)
    folder = user_path(options.run)
    meta = corpus_meta(folder)
    prompt = None if options.prompt is None else encode(read_prompt(options.prompt), meta)
    device = Machine.choose(settle({"device": options.device})).device
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has no need of it
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    settings = {name: getattr(options, name) for name in ("max_new_tokens", "temperature", "top_k", "seed")}
    with enough_memory(device, "ask for fewer --num_samples at once, or for --device=cpu"):
        model = read_model(folder, meta, device)
        texts = samples(model, meta, prompt, options.num_samples, **settings)
        for number, text in enumerate(texts, start=1):
            print(f"--- sample {number} of {options.num_samples}, seed {options.seed} ---\n{text}", flush=True)
    print("---")
    return 0


def samples(model, meta, prompt=None, num_samples=1, *, max_new_tokens, seed, temperature=0.8, top_k=None):
    """Yield texts with which the model continues a prompt, each with the prompt before it.

    prompt: a list of tokens. None: a line feed, or where the vocabulary has none its first symbol, which is
    not part of the texts. The other arguments: as in `GPT.generate`; the mode of the model is the caller's.
    """
    start = prompt or [symbol_indices(meta).get("\n", 0)]
    for first in range(0, num_samples, TOGETHER):
        numbers = range(first, min(first + TOGETHER, num_samples))
        idx = torch.tensor([start] * len(numbers), device=model.wte.weight.device)
        generators = [torch.Generator().manual_seed(stream_seed(seed, "sample", number)) for number in numbers]
        for row in model.generate(idx, max_new_tokens, generators, temperature, top_k).tolist():
            yield decode(row if prompt else row[1:], meta)


def read_model(folder, meta, device):
    """An exported model, or that of a run's best weights, of its last where there are no best; for sampling."""
    if gpt2.is_model(folder):
        model, weights = exported_model(folder, meta)
        path = folder / weights["file"]
    else:
        path, checkpoint = best_checkpoint(folder)
        model = model_in(checkpoint, meta, path)
    last = ", since there is no best.pt" if path.name == "last.pt" else ""
    print(f"weights: {path}{last}", file=sys.stderr)
    return model.for_sampling(device)


def read_prompt(text):
    """The text of --prompt=TEXT or --prompt=FILE:path."""
    if text.startswith("FILE:"):
        path = user_path(text.removeprefix("FILE:"))
        if not path.is_file():
            raise UserError(f"--prompt={text}: no such file")
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if not text:
        raise UserError("the prompt is empty: leave --prompt out to begin with a new line")
    return text


def read_options(argv):
    """The checked options of a command line."""
    parser = Parser(
        prog="python sample.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", nargs="?", help="a run folder, or a model that training.export wrote")
    add("--prompt", help="what the text begins with; FILE:path takes it from a file (default: a new line)")
    add("--num_samples", type=int, default=1, help="how many texts (default: 1)")
    add("--max_new_tokens", type=int, default=500, help="length of each beyond the prompt (default: 500)")
    add("--temperature", type=float, default=0.8, help="under 1 likelier, 0 the likeliest (default: 0.8)")
    add("--top_k", type=int, help="draw among the k likeliest symbols only (default: among all)")
    add("--seed", type=int, default=1, help="of the draws (default: 1)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    options, rest = parser.parse_known_args(argv)
    if rest:
        known = [f"--{name}" for name in vars(options) if name != "run"]
        near = did_you_mean(rest[0].split("=")[0], known)
        raise UserError(f"{rest[0]} is no option of sample.py{near} (python sample.py --help)")
    if options.run is None:
        raise UserError("which run? python sample.py out/quickstart/full/baseline/seed1")
    check_options(options)
    return options


def check_options(options):
    """UserError unless every number makes sense."""
    for name, least in {"num_samples": 1, "max_new_tokens": 1, "top_k": 1, "temperature": 0, "seed": 0}.items():
        value = getattr(options, name)
        if value is not None and not (least <= value < math.inf):
            raise UserError(f"--{name}={value} is out of range: {name} is {least} or more")


if __name__ == "__main__":
    run_script(main)
