"""The law: how the harm goes with the share S, the length of the run, its width and its learning rate.

Each has eight evaluations, as runs of 2,000 iterations have. docs/hypotheses.md says what is expected.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", eval_train_tokens=16_384)

_cells = {
    "": {},
    "+noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "+noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
_tuned = dict(learning_rate=4e-3, min_lr=4e-4)
_widths = {
    "half_width": dict(n_embd=lambda run: run.n_embd // 2),
    "double_width": dict(n_embd=lambda run: 2 * run.n_embd),
}
_variants = {
    **{f"length{length}": (length, {}) for length in (1000, 10_000, 20_000)},
    **{f"{width}_length{length}": (length, _widths[width]) for width in _widths for length in (2000, 5000)},
    **{f"lr4e-3_length{length}": (length, _tuned) for length in (5000, 10_000)},
}
arms = {
    f"{variant}{cell}": {**options, **noise, "max_iters": length, "eval_interval": length // 8}
    for variant, (length, options) in _variants.items()
    for cell, noise in _cells.items()
}
baseline = "length1000"
versus = {f"{variant}{cell}": variant for variant in _variants for cell in _cells if cell}
seeds = range(231, 235)
