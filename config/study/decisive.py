"""The decisive arms of mechanism.py over 5,000 iterations, a family of their own."""

base = "config/shakespeare_baseline.py"
common = dict(
    dtype="bfloat16", activation="gelu_tanh", max_iters=5000, diagnose_interval=50, eval_train_tokens=16_384
)

_noise = dict(noise_sigma=0.1, noise_gamma=0.99)
_elsewhere = {
    "second_moment": {**_noise, "noise_target": "second_moment"},
    "second_moment_mean": {**_noise, "noise_target": "second_moment_mean"},
    "matched_warmup": {**_noise, "noise_target": "learning_rate"},
}
arms = {"baseline": {}, "noise": _noise, **_elsewhere}
baseline = "baseline"
versus = dict.fromkeys(_elsewhere, "noise")
decisive = list(arms)
seeds = range(1, 7)
