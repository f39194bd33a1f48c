"""A run's weights in the Hugging Face GPT-2 format, for transformers, for sample.py, for --init_from.

    python -m training.export RUN FOLDER

These are the best weights of RUN, or else its last. FOLDER gets what transformers loads (config.json,
generation_config.json and model.safetensors, in training/gpt2.py; tokenizer.json and tokenizer_config.json, in
training/tokenizer.py), corpus.json (the vocabulary, and where the text is from), and README.md, a model card.
FOLDER must be new, empty, or an earlier export, which is replaced.
"""

import hashlib

from config import UserError, command, differences, identity, run_script, user_path
from data.corpus import symbol_indices
from data.files import read_json, replacing, write_json
from data.meta import fault_in
from training import gpt2, tokenizer
from training.evaluate import model_in, with_bits
from training.run_files import best_checkpoint, config_of, corpus_meta, corpus_title, read_about, read_log

END_OF_TEXT = "<|endoftext|>"


def main(argv):
    run, folder = read_arguments(argv)
    meta = corpus_meta(run)
    path, checkpoint = best_checkpoint(run)
    model = model_in(checkpoint, meta, path)
    card = model_card(run, folder, meta, path, checkpoint, model)
    (folder / gpt2.WEIGHTS).unlink(missing_ok=True)  # without them, what an interruption leaves is no model
    weights = gpt2.weights_of(model)
    more = {"train_tokens": config_of(run).train_tokens, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    write_json(folder / "corpus.json", {**meta, **more})
    with replacing(folder / "README.md", "w", encoding="utf-8", newline="\n") as file:
        file.write(card)
    tokenizer.write(folder, meta, model.config.block_size)
    gpt2.write(folder, model.config, weights, end_of_text(meta))
    last = ", since there is no best.pt" if path.name == "last.pt" else ""
    print(f"{folder}: the weights of {path}{last}; {command('sample.py', folder)} draws text from them")
    return 0


def read_arguments(argv):
    """(run, folder) of a command line; UserError where the folder holds anything but an export."""
    if strange := [word for word in argv if word.startswith("-")]:
        raise UserError(f"{strange[0]} is no option of training.export; it has none but --help")
    if len(argv) != 2:
        raise UserError(
            "which run, into which folder?"
            " python -m training.export out/quickstart/full/baseline/seed1 out/exported"
        )
    run, folder = map(user_path, argv)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_export(folder):
        raise UserError(f"{folder} holds something other than an export: name a new folder, or an empty one")
    return run, folder


def is_export(folder):
    """Whether a folder holds an export, or what is left of one."""
    try:
        return fault_in(read_json(folder / "corpus.json")) is None
    except UserError:
        return False


def end_of_text(meta):
    """The token of the end of a text; None where the vocabulary has none."""
    return meta["vocabulary"].index(END_OF_TEXT) if END_OF_TEXT in meta.get("special", []) else None


def model_card(run, folder, meta, path, checkpoint, model):
    """README.md of an export: what the model is, how it was trained, how good it is, how to load it."""
    config, metadata = config_of(run), read_about(run)
    shape, best = model.config, path.name == "best.pt"
    iteration = checkpoint["iter" if best else "step"]
    changed = {name: value for name, value in differences(config).items() if name in identity(config)}
    rows = {
        "corpus": f"{corpus_title(meta)}: {shape.vocab_size:,} symbols, each a {meta['unit']}",
        "parameters": f"{model.parameter_count():,}",
        "shape": f"{shape.n_layer} layers, {shape.n_head} heads, width {shape.n_embd}, context"
        f" {shape.block_size}{'' if shape.bias else '; without biases, which are zeros in the file'}",
        "weights": f"the {'best' if best else 'last'} ones of the run, after {iteration:,} iterations of"
        f" {config.tokens_per_iter:,} tokens",
        "validation loss": logged_loss(run, iteration, meta, config),
        "options that are not the defaults": ", ".join(
            f"`{name}={value!r}`" for name, value in changed.items()
        ),
        "seed": str(config.seed),
        "revision of the code": metadata["versions"].get("revision") or "unknown",
    }
    table = "\n".join(f"| {what} | {value} |" for what, value in rows.items())
    known = symbol_indices(meta)
    start = next(symbol for symbol in ("\n", " ", *known) if symbol in known and isinstance(symbol, str))
    place = folder.as_posix()
    return CARD.format(
        name=folder.name,
        table=table,
        folder=place,
        start=start,
        length=shape.block_size,
        command=command("sample.py", place),
    )


def logged_loss(run, iteration, meta, config):
    """The validation loss that a run logged at an iteration, as text."""
    events = [event for event in read_log(run)[0] if event["kind"] == "eval" and event["iter"] == iteration]
    if not events:
        return "not evaluated"
    nats, targets, size = events[-1]["val_loss"], meta["splits"]["val"]["tokens"] - 1, config.block_size
    if targets > config.eval_tokens:  # as many whole windows as fit (Corpus.windows)
        targets = max(1, config.eval_tokens // size) * size
    return f"{with_bits(nats, meta, 'val')}, over {targets:,} {meta['unit']}s"


CARD = """\
# {name}

A small GPT, trained to study gradient noise, in the Hugging Face GPT-2 format.

| | |
|---|---|
{table}

In transformers, whose AutoTokenizer and AutoModelForCausalLM load it too:

```python
from transformers import pipeline

generate = pipeline("text-generation", "{folder}")
print(generate({start!r})[0]["generated_text"])
```

A prompt and what follows it are {length:,} tokens at most. A symbol that is not in the vocabulary is an error.

In the code that trained it:

```sh
{command}
```
"""


if __name__ == "__main__":
    run_script(main, __doc__)
