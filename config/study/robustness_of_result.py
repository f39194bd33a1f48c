"""Robustness: does the verdict hold at other learning rates, batches, warm-ups, lengths and widths?

Noise is the mildest and the first cell of the paper's grid, each compared with the baseline of its options.
Both have the same learning rate, tuned for neither; best_against_best.py has each at the rate tuned for it.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384)

_cells = {
    "": {},
    "+noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "+noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
_variants = {
    "baseline": {},
    "lr3e-4": dict(learning_rate=3e-4, min_lr=3e-5),
    "lr3e-3": dict(learning_rate=3e-3, min_lr=3e-4),
    "lr1e-2": dict(learning_rate=1e-2, min_lr=1e-3),
    "half_batch": dict(batch_size=lambda run: run.batch_size // 2),
    "double_batch": dict(batch_size=lambda run: 2 * run.batch_size),
    "warmup500": dict(warmup_iters=500),
    "two_fifths_length": dict(max_iters=lambda run: run.max_iters * 2 // 5),
    "5_halves_length": dict(max_iters=lambda run: run.max_iters * 5 // 2),
    "half_width": dict(n_embd=lambda run: run.n_embd // 2),
}
arms = {
    f"{variant}{cell}": {**options, **noise}
    for variant, options in _variants.items()
    for cell, noise in _cells.items()
}
baseline = "baseline"
versus = {f"{variant}{cell}": variant for variant in _variants for cell in _cells if cell}
seeds = range(1, 5)
