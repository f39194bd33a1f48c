"""A pretrained encoder with a head for a task's labels, and the task's texts as its tokens.

The model and its tokenizer are transformers', which is not imported before it is needed.
"""

import hashlib
import importlib
import json
import math
import re
from dataclasses import dataclass

import torch

from config import UserError, user_path
from noise import stream_seed

POSITIONS = "position_embeddings"  # of all encoders that have them, the end of that module's name
TRAINED_OTHERWISE = {"xlnet"}  # an encoder that was not trained on masked words
NO_SHAPE = {"_name_or_path", "transformers_version", "architectures", "dtype", "id2label", "label2id"}


def needed(name, file="requirements-glue.txt"):
    """A package of a requirements file; UserError where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is missing: pip install -r {file}") from None


def check_packages():
    """UserError where a package is missing."""
    for name in ("transformers", "sklearn.metrics"):
        needed(name)


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder with a head for a task's labels, and the task's texts as its tokens.

    head: the names of the parameters that are not the encoder's. rows: {split: a dict of lists an example}.
    cut: how many texts are longer than the `limit` in tokens, and are cut there.
    record: for run.json, where the weights are from, and the SHA-256 of them, of their model's shape and of the
        rows.
    """

    model: torch.nn.Module
    head: set
    pad: object
    rows: dict
    limit: int
    cut: int
    record: dict


def read_encoder(config, task):
    """The Encoder of a run of this config; UserError where `model` names none, or a package is missing."""
    transformers = needed("transformers")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    place = user_path(config.model)
    name = str(place) if place.is_dir() else config.model
    check_encoder(transformers, config.model, name, place.is_dir())
    model, fresh = load(transformers, config, name, task.meta["vocabulary"])
    prefix = model.base_model_prefix + "."
    head = {name for name, _ in model.named_parameters() if name in fresh or not name.startswith(prefix)}
    check_choices(config, model, head)
    tokenizer = attempt(config.model, transformers.AutoTokenizer.from_pretrained, name)
    limit = min(config.max_length, tokenizer.model_max_length, positions(model))
    check_tokenizer(config, tokenizer, limit, pairs=task.train[0].text2 is not None)
    rows = attempt(config.model, tokens, tokenizer, task=task)
    check_tokens(config.model, model, tokenizer, rows)
    lengths = [len(row["input_ids"]) for part in rows.values() for row in part]
    if cut := sum(length > limit for length in lengths):
        rows = tokens(tokenizer, task, limit)
    digest = sha256(model, head, rows)
    record = {"run": config.model, "file": "its weights", "sha256": digest, "fresh": sorted(fresh)}
    return Encoder(model, head, tokenizer.pad, rows, limit, cut, record)


def attempt(model, read, what, **how):
    """What transformers reads; UserError where it cannot."""
    try:
        return read(what, **how)
    except Exception as error:  # of many kinds, of three packages
        raise UserError(f"model={model!r} cannot be read: {first_line(error)}") from None


def first_line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_encoder(transformers, model, name, is_folder):
    """UserError where there is no such model, or it is no encoder."""
    try:
        shape = transformers.AutoConfig.from_pretrained(name)
    except Exception as error:  # of many kinds
        if is_folder:
            why = first_line(error)
            raise UserError(f"model={model!r} holds no model that transformers knows: {why}") from None
        raise UserError(
            f"model={model!r} is no folder, and the hub does not give it: docs/glue.md says how to get one"
        ) from None
    auto = transformers.models.auto.modeling_auto
    encodes = {*auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, *TRAINED_OTHERWISE}
    encodes &= {*auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES}
    decodes = shape.is_encoder_decoder or getattr(shape, "is_decoder", False)
    if shape.model_type not in encodes or decodes:
        raise UserError(
            f"model={model!r} is a {shape.model_type}, which is no encoder that can classify texts: name one"
            " like bert-base-uncased"
        )


def check_choices(config, model, head):
    """UserError where an option chooses parameters of a kind that the model has not."""
    names = [name for name, _ in model.named_parameters()]
    for option in ("noise_params", "noisytune_params"):
        params = getattr(config, option)
        if not any(is_chosen(params, name, head) for name in names):
            has = ", ".join(sorted({group_of(name, head) for name in names}))
            raise UserError(f"{option}={params!r}: model={config.model!r} has none of that kind, but {has}")


def check_tokenizer(config, tokenizer, limit, pairs):
    """UserError where it cannot make batches, or the limit leaves no token of a text."""
    if tokenizer.pad_token_id is None:
        raise UserError(f"model={config.model!r} has a tokenizer without a padding token: name another")
    marks, texts = tokenizer.num_special_tokens_to_add(pairs), 2 if pairs else 1
    if limit < marks + texts:
        raise UserError(
            f"{limit} tokens a text, by max_length or the model's positions, leave none beside {marks} marks:"
            f" {marks + texts} at least"
        )


def check_tokens(name, model, tokenizer, rows):
    """UserError where tokenizer and model do not belong together, or it knows no word of the texts."""
    used = {token for part in rows.values() for row in part for token in row["input_ids"]}
    if max(used) >= (size := model.get_input_embeddings().num_embeddings):
        raise UserError(
            f"model={name!r} has {size:,} embeddings and a tokenizer that gives token {max(used):,}: they do"
            " not belong together"
        )
    if used <= {*tokenizer.all_special_ids}:
        raise UserError(
            f"model={name!r} has a tokenizer that knows no word of the texts: does it lack its tokenizer.json?"
        )


def load(transformers, config, name, labels):
    """(the model, the names of the parameters that are not the folder's, as a head); the seed draws these."""
    torch.manual_seed(stream_seed(config.seed, "init"))
    model, found = attempt(
        config.model,
        transformers.AutoModelForSequenceClassification.from_pretrained,
        name,
        **{"num_labels": len(labels), "id2label": dict(enumerate(labels)), "dtype": torch.float32},
        **{"label2id": {label: number for number, label in enumerate(labels)}, "use_safetensors": True},
        **{"problem_type": "single_label_classification"},
        **{"output_loading_info": True, "ignore_mismatched_sizes": True},
    )
    mismatched = {name if isinstance(name, str) else name[0] for name in found["mismatched_keys"]}
    fresh, prefix = {*found["missing_keys"], *mismatched}, model.base_model_prefix + "."
    if lacking := sorted(name for name in fresh if name.startswith(prefix) and "pooler" not in name):
        raise UserError(
            f"model={config.model!r} has not all weights of a {model.config.model_type}: {len(lacking)} are"
            f" missing or of another shape, such as {lacking[0]}"
        )
    return model, fresh | draw_head(model, fresh)


@torch.no_grad()
def draw_head(model, fresh):
    """Draw a classifier of the folder's own anew, as it is for other labels; returns its parameters' names."""
    prefix = model.base_model_prefix + "."
    named = {
        name: p for name, p in model.named_parameters() if not name.startswith(prefix) and name not in fresh
    }
    if named:
        drawn = type(model)(model.config)
        for name, parameter in named.items():
            parameter.copy_(drawn.get_parameter(name))
    return named.keys()


def positions(model):
    """The longest text that a model has positions for, in tokens; infinity where they are not learned."""
    tables = [m for name, m in model.named_modules() if name.endswith(POSITIONS) and hasattr(m, "weight")]
    unused = [0 if table.padding_idx is None else table.padding_idx + 1 for table in tables]  # RoBERTa's first
    return min((len(table.weight) - first for table, first in zip(tables, unused)), default=math.inf)


def tokens(tokenizer, task, limit=None):
    """{split: a dict of lists for each example}."""
    return {split: tokens_of(tokenizer, getattr(task, split), limit) for split in ("train", "val")}


def tokens_of(tokenizer, examples, limit=None):
    """A dict of lists for each example; of pairs the longer text is cut first."""
    pairs = [[example.text for example in examples]]
    if examples[0].text2 is not None:
        pairs.append([example.text2 for example in examples])
    found = tokenizer(*pairs, truncation=limit is not None, max_length=limit)
    return [{key: found[key][row] for key in found} for row in range(len(examples))]


def sha256(model, head, rows):
    """Of what a run begins with but its seed: the encoder's weights, its shape, and the tokens of the texts."""
    shape = {key: value for key, value in model.config.to_diff_dict().items() if key not in NO_SHAPE}
    digest = hashlib.sha256(json.dumps([shape, rows], sort_keys=True).encode())
    for name, parameter in model.named_parameters():
        if name not in head:
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


# Parameters by their names.


def group_of(name, head):
    """The group of a parameter: head, embeddings, attention, mlp, norms or pooler."""
    if name in head:
        return "head"
    if "norm" in name.lower():
        return "norms"
    words = {"embedding": "embeddings", "pooler": "pooler", "attention": "attention", "attn": "attention"}
    return next((group for word, group in words.items() if word in name), "mlp")


def layer_of(name):
    """ "layer3", or None outside the layers."""
    found = re.search(r"\.layers?\.(\d+)\.", name)
    return f"layer{found[1]}" if found else None


def is_chosen(params, name, head):
    """Whether options noise_params and noisytune_params mean a parameter."""
    return params == "all" or (name not in head if params == "encoder" else params == group_of(name, head))


def groups_of(name, head):
    """What a parameter's distance counts to: its group, its layer, and "all" but the head."""
    group = group_of(name, head)
    return filter(None, (group, layer_of(name), None if group == "head" else "all"))
