"""Mechanism: through which part of AdamW the noise acts, by putting it into one part at a time.

Arms that put the paper's first cell (or, as `mild`, its last) somewhere else, or replace it by what it would do
there, are compared with that noise itself. Noise, noise relative to the gradient's size, and the ordinary
controls are compared with the baseline, or with the baseline at its best learning rate. The tuned rates are
tuning.py's at cpu.py's size.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", diagnose_interval=50, eval_train_tokens=16_384)


def _gradient_rms(run):
    """Of an element where the norm is 1: 3.1e-4 at the paper's size, 1.1e-3 at cpu.py's."""
    return (12 * run.n_layer * run.n_embd**2) ** -0.5


_noise = dict(noise_sigma=0.1, noise_gamma=0.99)
_mild = dict(noise_sigma=0.01, noise_gamma=0.95)
_relative = dict(noise_sigma=1.0, noise_gamma=0.99, noise_scale="global")
_elsewhere = {
    "second_moment": {**_noise, "noise_target": "second_moment"},
    "second_moment_mean": {**_noise, "noise_target": "second_moment_mean"},
    "first_moment": {**_noise, "noise_target": "first_moment"},
    "matched_warmup": {**_noise, "noise_target": "learning_rate"},
    "reset": {**_noise, "reset_below_sigma": _gradient_rms},
    "anticorrelated": {**_noise, "noise_anticorrelated": True},
}
_mild_elsewhere = {
    "mild_second_moment_mean": {**_mild, "noise_target": "second_moment_mean"},
    "mild_matched_warmup": {**_mild, "noise_target": "learning_rate"},
}
arms = {
    "baseline": {},
    "noise": _noise,
    **_elsewhere,
    "mild_noise": _mild,
    **_mild_elsewhere,
    "noise_relative": _relative,
    "first_moment_relative": {**_relative, "noise_target": "first_moment"},
    "before_clip": {**_noise, "noise_before_clip": True, "diagnose_interval": 0},
    "weights": {**_noise, "noise_target": "weights"},
    "weights_times_10": {**_noise, "noise_target": "weights", "noise_sigma": 1.0},
    "warmup500": dict(warmup_iters=500),
    "tuned": dict(learning_rate=4e-3, min_lr=4e-4),
    "warmup500_tuned": dict(warmup_iters=500, learning_rate=4e-3, min_lr=4e-4),
    "first_moment_relative_tuned": {
        **_relative,
        **dict(noise_target="first_moment", learning_rate=4e-3, min_lr=4e-4),
    },
}
baseline = "baseline"
versus = {
    **dict.fromkeys(_elsewhere, "noise"),
    **dict.fromkeys(_mild_elsewhere, "mild_noise"),
    **dict.fromkeys(("before_clip", "weights", "weights_times_10"), "noise"),
    **dict.fromkeys(("warmup500_tuned", "first_moment_relative_tuned"), "tuned"),
}
decisive = ["baseline", "noise", "second_moment", "second_moment_mean", "matched_warmup"]
seeds = range(1, 7)
