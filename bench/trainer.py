"""transformers' Trainer beside training.classify: the same encoder, head, texts and settings.

    python -m bench.trainer TASK [--seeds=1,2,3,4,5]

TASK is one of data/glue/. Trainer has the settings of noisytune_glue's arm with lambda 0, batches by length and
dropout of its own. One final score a seed is printed, then the difference to that arm's scores in results/, by
Welch's test. It needs requirements-dev.txt.
"""

import tempfile

from config import ROOT, Parser, run_script, spin_less

if __name__ == "__main__":
    spin_less()  # as training.classify, before torch is loaded

from analysis import records
from analysis.statistics import welch
from config.study import parse_seeds, read_study
from data.texts import NAMES, read_task
from training.encoder import needed, read_encoder
from training.encoder_run import EncoderMachine, EncoderRun, evaluation

STUDY = "noisytune_glue"


def main(argv):
    options = read_options(argv)
    arm = f"{options.task}_lambda0"
    study = read_study(str(ROOT / "config" / "study" / f"{STUDY}.py"), seeds=options.seeds, arms=[arm])
    theirs = []
    for planned in (run for run in study.runs if run.arm == arm):
        theirs.append(train(planned.config))
        print(f"{options.task}, seed {planned.seed}: Trainer {theirs[-1]:.4f}", flush=True)
    ours = records.losses(records.read([ROOT / "results" / STUDY]).of(arm=arm).runs, "final_val_score")
    print(f"training.classify: {', '.join(f'{score:.4f}' for score in ours)}")
    if len(theirs) > 1:
        row = welch(ours.to_numpy(), theirs)
        low, high = row["mean"] - row["half_width"], row["mean"] + row["half_width"]
        print(f"ours minus Trainer's: {row['mean']:+.4f}", end="")
        print(f" ({low:+.4f} to {high:+.4f}), p = {row['p']:.2f} (n = {len(ours)} and {len(theirs)})")
    return 0


def read_options(argv):
    parser = Parser(prog="python -m bench.trainer", add_help=False)
    parser.add_argument("task", choices=NAMES)
    parser.add_argument("--seeds", type=parse_seeds, default=None)
    return parser.parse_args(argv)


def train(config):
    """The final score of a run that Trainer trains."""
    task = read_task(config.task, config.val_file)
    run = EncoderRun(config, task, EncoderMachine.choose(config), read_encoder(config, task))
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(run, folder)
        trainer.train()
    trainer.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)  # or it would be evaluated in bfloat16
    return evaluation(run)["val_score"]


def trainer_of(run, folder, **more):
    """A Trainer of the run's model on its settings, and `more` TrainingArguments."""
    needed("accelerate", "requirements-dev.txt")
    transformers, config = needed("transformers"), run.config
    texts = [{**row, "labels": int(n)} for row, n in zip(run.encoder.rows["train"], run.labels["train"])]
    settings = {
        **{"max_steps": config.max_iters, "per_device_train_batch_size": config.batch_size},
        **{"train_sampling_strategy": "group_by_length", "warmup_steps": config.warmup_iters},
        **{"learning_rate": config.learning_rate, "weight_decay": config.weight_decay},
        **{"adam_beta1": config.beta1, "adam_beta2": config.beta2, "max_grad_norm": config.grad_clip},
        **{"bf16": config.dtype == "bfloat16", "seed": config.seed, "data_seed": config.data_seed},
        **{"use_cpu": run.machine.device == "cpu", "output_dir": folder, "save_strategy": "no"},
        **{"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "dataloader_pin_memory": False},
    }
    trainer = transformers.Trainer(
        model=run.model,
        args=transformers.TrainingArguments(**{**settings, **more}),
        train_dataset=texts,
        data_collator=lambda rows: run.encoder.pad(rows, return_tensors="pt"),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


if __name__ == "__main__":
    run_script(main, __doc__)
