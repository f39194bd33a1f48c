"""An encoder that learns to classify texts: a run in memory, what it reads, its evaluation.

The model and its tokenizer are transformers', the scores scikit-learn's; neither is imported before it is used.
"""

import functools
import hashlib
import importlib
import json
import math
import re
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from config import UserError, user_path
from noise import GradientNoise, schedule, stream_seed
from training.distributed import SingleProcess
from training.run import Trained, copied, mean_distance, parameter_groups, perturb_

CHUNK = 50  # batches that are sorted by length together
POSITIONS = "position_embeddings"  # of all encoders that have them, the end of that module's name


def needed(name):
    """A package of requirements-glue.txt; UserError where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is missing: pip install -r requirements-glue.txt") from None


def check_packages():
    """UserError where a package is missing."""
    for name in ("transformers", "sklearn.metrics"):
        needed(name)


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder with a head for a task's labels, and the task's texts as its tokens.

    head: the names of the parameters that are not the encoder's. rows: {split: a dict of lists an example}.
    cut: how many texts are longer than the `limit` in tokens, and are cut there.
    record: for run.json, where the weights are from and their SHA-256.
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
    tokenizer = attempt(config.model, transformers.AutoTokenizer.from_pretrained, name)
    limit = min(config.max_length, tokenizer.model_max_length, positions(model))
    rows = {split: tokens_of(tokenizer, getattr(task, split)) for split in ("train", "val")}
    check_vocabulary(config.model, model, rows)
    lengths = [len(row["input_ids"]) for part in rows.values() for row in part]
    if cut := sum(length > limit for length in lengths):
        rows = {split: tokens_of(tokenizer, getattr(task, split), limit) for split in rows}
    record = {"run": config.model, "file": "its weights", "sha256": sha256(model, head), "fresh": sorted(fresh)}
    return Encoder(model, head, tokenizer.pad, rows, limit, cut, record)


def attempt(model, read, name, **how):
    """What transformers reads; UserError where it cannot."""
    try:
        return read(name, **how)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"model={model!r} cannot be read: {why}") from None
    except Exception as error:  # safetensors' own
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"model={model!r} has damaged weights: {error}") from None


def check_encoder(transformers, model, name, is_folder):
    """UserError where there is no such model, or it is no encoder: one that was trained on masked words."""
    try:
        shape = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        if is_folder:
            reason = next(iter(str(error).strip().splitlines()), "")
            raise UserError(f"model={model!r} holds no model that transformers knows: {reason}") from None
        raise UserError(
            f"model={model!r} is no folder, and the hub does not give it: docs/glue.md says how to get one"
        ) from None
    auto = transformers.models.auto.modeling_auto
    masked = shape.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    classifies = shape.model_type in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if not (masked and classifies) or shape.is_encoder_decoder or getattr(shape, "is_decoder", False):
        raise UserError(
            f"model={model!r} is a {shape.model_type}, which is no encoder that can classify texts: name one"
            " like bert-base-uncased"
        )


def load(transformers, config, name, labels):
    """(the model, the names of the parameters that the folder has not, as a head); the seed draws these."""
    torch.manual_seed(stream_seed(config.seed, "init"))
    model, found = attempt(
        config.model,
        transformers.AutoModelForSequenceClassification.from_pretrained,
        name,
        **{"num_labels": len(labels), "id2label": dict(enumerate(labels)), "dtype": torch.float32},
        **{"label2id": {label: number for number, label in enumerate(labels)}, "use_safetensors": True},
        **{"output_loading_info": True, "ignore_mismatched_sizes": True},
    )
    mismatched = {name if isinstance(name, str) else name[0] for name in found["mismatched_keys"]}
    fresh, prefix = {*found["missing_keys"], *mismatched}, model.base_model_prefix + "."
    if lacking := sorted(name for name in fresh if name.startswith(prefix) and "pooler" not in name):
        raise UserError(
            f"model={config.model!r} has not all weights of a {model.config.model_type}: {len(lacking)} are"
            f" missing or of another shape, such as {lacking[0]}"
        )
    return model, fresh


def positions(model):
    """The longest text that a model has positions for, in tokens; infinity where they are not learned."""
    tables = [m for name, m in model.named_modules() if name.endswith(POSITIONS) and hasattr(m, "weight")]
    unused = [0 if table.padding_idx is None else table.padding_idx + 1 for table in tables]  # RoBERTa's first
    return min((len(table.weight) - first for table, first in zip(tables, unused)), default=math.inf)


def tokens_of(tokenizer, examples, limit=None):
    """A dict of lists for each example; of pairs the longer text is cut first."""
    pairs = [[example.text for example in examples]]
    if examples[0].text2 is not None:
        pairs.append([example.text2 for example in examples])
    found = tokenizer(*pairs, truncation=limit is not None, max_length=limit)
    return [{key: found[key][row] for key in found} for row in range(len(examples))]


def check_vocabulary(name, model, rows):
    largest = max(max(row["input_ids"]) for part in rows.values() for row in part)
    if largest >= (size := model.get_input_embeddings().num_embeddings):
        raise UserError(
            f"model={name!r} has {size:,} embeddings and a tokenizer that gives token {largest:,}: they do not"
            " belong together"
        )


def sha256(model, head):
    """Of the encoder's weights, in their order."""
    digest = hashlib.sha256()
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
    words = {"embeddings": "embeddings", "pooler": "pooler", "attention": "attention", "attn": "attention"}
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


# The run.


class EncoderRun(Trained):
    """One run of training.classify in memory.

    pretrained: None, for no start.pt is needed: `origins` are had again from the model and the seed.
    origins: {kind of event: the weights by name that the distance is measured from}: "distance" the pretrained,
        "update" those that training began with, after NoisyTune.
    """

    packages = ("transformers", "tokenizers", "scikit-learn")

    def __init__(self, config, task, machine, encoder, ranks=None):
        machine.apply()
        self.config, self.corpus, self.task, self.machine = config, task, task, machine
        self.ranks, self.encoder, self.pretrained = ranks or SingleProcess(), encoder, None
        self.model, self.source_record = encoder.model.to(machine.device), encoder.record
        self.origins = {"distance": copied(self.model)}
        if config.noisytune_lambda:
            named = self.model.named_parameters()
            perturb_([p for n, p in named if is_chosen(config.noisytune_params, n, encoder.head)], config)
        self.origins["update"] = copied(self.model) if config.noisytune_lambda else self.origins["distance"]
        self.scaler = machine.scaler()
        self.optimizer = make_optimizer(config, self.model)
        self.noise = gradient_noise(config, self.model, encoder.head)
        self.count_from_0()
        self.labels = {split: torch.tensor(task.targets(split)) for split in encoder.rows}
        self.lengths = np.array([len(row["input_ids"]) for row in encoder.rows["train"]])
        self.plan = (None, ())  # an epoch, and its batches

    def batch(self):
        """The next batch of the train split, as the model takes it, its labels with it."""
        per_epoch = -(-len(self.lengths) // self.config.batch_size)
        epoch, place = divmod(self.step, per_epoch)
        if self.plan[0] != epoch:
            seed = stream_seed(self.config.data_seed, "data", epoch)
            self.plan = epoch, batches_by_length(self.lengths, self.config.batch_size, seed)
        return self.collate("train", self.plan[1][place])

    def collate(self, split, rows):
        """Some examples as the model takes them: tensors (rows, tokens of the longest), and labels (rows,)."""
        inputs = self.encoder.pad([self.encoder.rows[split][row] for row in rows], return_tensors="pt")
        batch = {**inputs, "labels": self.labels[split][rows]}
        return {key: value.to(self.machine.device) for key, value in batch.items()}

    def epochs(self):
        """How often the whole run passes over the train split."""
        return self.config.max_iters / -(-len(self.lengths) // self.config.batch_size)

    def weights(self):
        shape = json.loads(self.model.config.to_json_string(use_diff=False))
        return {"config": shape, "state": self.model.state_dict()}

    def parameter_count(self):
        return sum(parameter.numel() for parameter in self.model.parameters())

    def describe_source(self):
        encoder = self.encoder
        many = len(self.task.train) + len(self.task.val)
        fresh = ", ".join(encoder.record["fresh"]) or "nothing"
        return (
            f"weights from {encoder.record['run']}, fresh: {fresh}; {self.epochs():.2g} passes over"
            f" {len(self.task.train):,} texts; {encoder.cut:,} of {many:,} are cut at {encoder.limit} tokens"
        )

    def distances(self):
        """{kind of event: mean_distance}."""
        groups = functools.partial(groups_of, head=self.encoder.head)
        return {kind: mean_distance(self.model, of, groups) for kind, of in self.origins.items()}


def make_optimizer(config, model):
    groups, betas = parameter_groups(model, config.weight_decay), (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def gradient_noise(config, model, head):
    constants = {name: getattr(config, f"noise_{name}") for name in ("sigma", "gamma", "steps")}
    return GradientNoise(
        model.named_parameters(),
        schedule(config.noise_schedule, **constants),
        config.seed,
        distribution=config.noise_distribution,
        scale=config.noise_scale,
        where=lambda name, _: is_chosen(config.noise_params, name, head),
    )


def batches_by_length(lengths, batch_size, seed):
    """The batches of one pass over the examples, arrays of their numbers: in an order drawn from the seed, each
    of about equal lengths, so that padding costs little."""
    draw = np.random.default_rng(seed)
    order, size = draw.permutation(len(lengths)), CHUNK * batch_size
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    order = np.concatenate([chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[number] for number in draw.permutation(len(batches))]


# Evaluation.


def evaluation(run):
    """{train_loss, val_loss, val_score, val_accuracy, ...}: dropout off, in float32, over the same texts each
    time, the val split's all."""
    kept = min(len(run.task.train), run.config.eval_train_texts)
    train = np.arange(kept) * len(run.task.train) // kept
    train_loss, _ = predict(run, "train", train)
    val_loss, predicted = predict(run, "val", np.arange(len(run.task.val)))
    found = scores(run.task.targets("val"), predicted, len(run.task.meta["vocabulary"]))
    metric = run.task.metric if run.config.metric == "auto" else run.config.metric
    found = {"score": found[metric], **found}
    return {"train_loss": train_loss, "val_loss": val_loss, **{f"val_{name}": x for name, x in found.items()}}


@torch.no_grad()
def predict(run, split, rows):
    """(mean cross-entropy in nats, the labels that are predicted) of some examples of a split."""
    lengths = [len(run.encoder.rows[split][row]["input_ids"]) for row in rows]
    order, losses, predicted = np.argsort(lengths, kind="stable"), [], np.empty(len(rows), int)
    mode = run.model.training
    run.model.eval()
    for part in np.array_split(order, -(-len(order) // 64)):
        batch = run.collate(split, rows[part])
        logits = run.model(**{key: value for key, value in batch.items() if key != "labels"}).logits.float()
        losses.append(torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none").cpu())
        predicted[part] = logits.argmax(dim=1).cpu().numpy()
    run.model.train(mode)
    return float(torch.cat(losses).double().mean()), predicted


def scores(labels, predicted, kinds):
    """Accuracy, F1 (of the second of two labels; of more the mean over them) and Matthews' correlation."""
    metrics = needed("sklearn.metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where all have one label: F1 and Matthews' are then 0
        return {
            "accuracy": float(metrics.accuracy_score(labels, predicted)),
            "f1": float(metrics.f1_score(labels, predicted, average="binary" if kinds == 2 else "macro")),
            "matthews": float(metrics.matthews_corrcoef(labels, predicted)),
        }
