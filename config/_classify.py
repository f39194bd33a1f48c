"""The options of a run that fine-tunes an encoder to classify texts (training/classify.py). No torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from config._command import UserError
from config._options import (
    Count,
    Device,
    Fraction,
    Iterations,
    Limits,
    Name,
    NotNegative,
    Scale,
    Size,
    Strength,
    Threads,
    UpToOne,
    check_noise_steps,
)

Schedule = Literal["exponential", "linear", "cosine", "constant"]
Params = Literal["all", "encoder", "embeddings", "attention", "mlp", "norms", "head"]
Length = Annotated[int, Limits(lambda x: 3 <= x <= 1e6, "from 3 to 1e6")]  # a token between two marks


@dataclass(frozen=True)
class Classify:
    program, command = "classify", "-m training.classify"  # no options, as those below: they have no type
    init_from, compile = None, "off"
    optimizer, noise_eta, noise_anticorrelated = "adamw", 0.0, False

    # == task and model ==
    task: Name = "rte"  # one of data/glue/, or a file of your own: .tsv, .csv or .jsonl
    val_file: Name | None = None  # of a file of your own; None: a tenth of its texts, always the same
    metric: Literal["auto", "accuracy", "f1", "matthews"] = "auto"  # the score; auto: the task's, else accuracy
    model: Name = "models/minilm"  # an encoder, as transformers has it: a folder, or a name on its hub
    max_length: Length = 128  # tokens of a text; a longer one is cut
    batch_size: Size = 32  # texts of about the same length

    # == AdamW and its learning rate ==
    max_iters: Iterations = 500  # optimizer updates
    learning_rate: NotNegative = 5e-5  # the peak, reached after warm-up; from there linear to 0
    warmup_iters: Count = 50  # iterations of linear warm-up; the first step is not zero
    weight_decay: NotNegative = 0.01  # decoupled, on matrices and embeddings only
    beta1: Fraction = 0.9  # decay of the first moment
    beta2: Fraction = 0.999  # decay of the second moment
    grad_clip: NotNegative = 1.0  # largest global gradient norm; 0: no clipping

    # == noise in the pretrained weights, once, before the first step (NoisyTune) ==
    noisytune_lambda: Strength = 0.0  # W + U(-lambda/2, lambda/2) * std(W); its paper's is 0.15; 0: none
    noisytune_distribution: Literal["uniform", "gaussian"] = "uniform"  # of sd lambda * std(W) / sqrt 12
    noisytune_std: Literal["tensor", "global"] = "tensor"  # tensor: each one's own; global: one for all
    noisytune_params: Params = "encoder"  # encoder: all but the head; head: it alone; all: both

    # == gradient noise (noise.py) ==
    noise_schedule: Schedule = "exponential"  # how sigma falls from iteration to iteration
    noise_sigma: Strength = 0.0  # sigma_0, the sd at iteration 0; 0: no noise
    noise_gamma: UpToOne = 0.99  # exponential: sigma_t = sigma_0 * gamma^t
    noise_steps: Size | None = None  # linear, cosine: iterations until sigma is 0; None: max_iters
    noise_distribution: Literal["gaussian", "uniform", "laplace"] = "gaussian"  # each of sd sigma_t
    noise_scale: Scale = "absolute"  # global: times the gradient's RMS; tensor: each its own
    noise_params: Params = "all"  # which parameters have it

    # == randomness ==
    seed: Count = 1  # the fresh head, dropout and noise; data too unless data_seed is set
    data_seed: Count | None = None  # order of the texts; None: seed

    # == looking: none of these changes a weight ==
    eval_interval: Size = 250  # iterations between evaluations, each of the whole val split
    eval_train_texts: Size = 512  # train texts per evaluation, at most, always the same
    log_interval: Size = 10  # iterations between log lines
    checkpoint_interval: Size = 500  # iterations between checkpoints
    tensorboard: bool = False  # the log as TensorBoard's event files too, in the run folder
    wandb_log: bool = False  # the log to Weights & Biases too; WANDB_MODE=offline: into the run folder

    # == machine ==
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # float16: with a gradient scaler
    threads: Threads = 0  # CPU threads; 0: PyTorch's choice. Restored on resume

    # == run folder ==
    out_dir: Name | None = None  # the run folder; None: out/<config files>/seed<seed>
    overwrite: bool = False  # True: begin afresh where a run lies already
    keep_weights: bool = True  # False: last.pt and best.pt go when the run has finished

    @property
    def tokens_per_iter(self):
        """What an iteration takes of the corpus, whose unit is a text."""
        return self.batch_size

    @property
    def noisy(self):
        return self.noise_sigma > 0

    def check(self):
        """UserError where options contradict each other."""
        if self.warmup_iters > self.max_iters:
            raise UserError(
                f"warmup_iters={self.warmup_iters} is beyond max_iters={self.max_iters}: warm up for less"
            )
        check_noise_steps(self)
        for name in ("task", "model", "val_file"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                raise UserError(f"{name} is empty: name one, or leave it out")
