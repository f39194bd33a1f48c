"""noisytune_glue's rates: learning rates for fine-tuning an encoder without noise, on seeds of its own.

Where the best rate is at an end of the grid, the grid is extended before the study is run.
"""

program = "classify"
base = "config/glue/rte.py"
common = dict(dtype="bfloat16", eval_train_texts=256, keep_weights=False)

_texts = dict(cola=8551, mrpc=4076, rte=2490, sst2=6920)
_rates = ("1e-4", "2e-4", "4e-4")


def _task(name):
    """As in noisytune_glue.py."""
    steps = -(-_texts[name] // 32)
    return dict(task=name, max_iters=3 * steps, warmup_iters=3 * steps // 10, eval_interval=steps)


arms = {
    f"{name}_lr{rate}": dict(learning_rate=float(rate), **_task(name)) for name in _texts for rate in _rates
}
baseline = "cola_lr1e-4"
seeds = (101, 102)
purpose = "tuning"
