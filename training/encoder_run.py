"""A run in memory that fine-tunes an encoder, and its evaluation. The scores are scikit-learn's."""

import functools
import json
import warnings

import numpy as np
import torch

from noise import stream_seed
from training.distributed import SingleProcess
from training.encoder import groups_of, is_chosen, needed
from training.machine import Machine
from training.operators import has_instructions
from training.run import Trained, copied, gradient_noise, make_optimizer, mean_distance, perturb_

CHUNK = 50  # batches that are sorted by length together


class EncoderMachine(Machine):
    """transformers' layers multiply by PyTorch alone."""

    through_float32 = False

    @classmethod
    def choose(cls, config):
        machine = super().choose(config)
        if machine.kind == "cpu" and not has_instructions(getattr(torch, machine.dtype)):
            print(f"this CPU emulates {machine.dtype}: --dtype=float32 is faster here")
        return machine


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
        self.noise = gradient_noise(
            config, self.model, lambda name, _: is_chosen(config.noise_params, name, encoder.head)
        )
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
