"""NoisyTune where it was claimed: a pretrained encoder on four tasks of GLUE, beside noise in the gradients.

Three passes over each task, at the rate that noisytune_glue_rates.py found for lambda 0 on another seed. Five
seeds, as NoisyTune's paper has. The noise in the gradients is relative to their own RMS, as elsewhere, and its
sigma falls to 0 over the run.

Written before the runs, of the final score: at 0.15, the value of NoisyTune's paper, we expect differences
within 0.01 on CoLA, MRPC and SST-2 (RTE's 277 pairs cannot tell), and an `update` within 5 % of lambda 0's,
where the paper has it smaller; the four differences average within 0.01; at 0.5 a lower score on CoLA; of the
noise in the gradients none beyond 0.01. Refuted: a 95 % interval wholly beyond that. Open: one that reaches
beyond it.
"""

program = "classify"
base = "config/glue/rte.py"
common = dict(learning_rate=1e-4, dtype="bfloat16", eval_train_texts=256, keep_weights=False)

_texts = dict(cola=8551, mrpc=4076, rte=2490, sst2=6920)


def _task(name):
    """Three passes over a task in batches of 32, a tenth of them warm-up; evaluated before and after."""
    steps = 3 * -(-_texts[name] // 32)
    return dict(task=name, max_iters=steps, warmup_iters=steps // 10, eval_interval=steps)


_noise = dict(noise_schedule="linear", noise_sigma=1.0, noise_scale="global")
_kinds = {
    **{f"lambda{lam:g}": dict(noisytune_lambda=lam) for lam in (0.0, 0.15, 0.5)},
    "gradient_noise": _noise,
}
arms = {f"{name}_{kind}": {**_task(name), **options} for name in _texts for kind, options in _kinds.items()}
baseline = "cola_lambda0"
versus = {f"{name}_{kind}": f"{name}_lambda0" for name in _texts for kind in _kinds if kind != "lambda0"}
seeds = range(1, 6)
