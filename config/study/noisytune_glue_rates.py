"""noisytune_glue's rate: learning rates for fine-tuning an encoder without noise, on a seed of its own.

The rate of the study is the one with the highest score, averaged over the four tasks. The grid began with 1e-4,
2e-4 and 4e-4. CoLA scored 0.27, 0.21 and 0.00 there, so 5e-5 was added on every task, and 4e-4 left to CoLA.
"""

program = "classify"
base = "config/glue/rte.py"
common = dict(dtype="bfloat16", eval_train_texts=256, keep_weights=False)

_texts = dict(cola=8551, mrpc=4076, rte=2490, sst2=6920)
_rates = ("5e-5", "1e-4", "2e-4")


def _task(name):
    """As in noisytune_glue.py."""
    steps = -(-_texts[name] // 32)
    return dict(task=name, max_iters=3 * steps, warmup_iters=3 * steps // 10, eval_interval=steps)


_grid = [(name, rate) for name in _texts for rate in _rates] + [("cola", "4e-4")]
arms = {f"{name}_lr{rate}": dict(learning_rate=float(rate), **_task(name)) for name, rate in _grid}
baseline = "cola_lr1e-4"
seeds = (101,)
purpose = "tuning"
