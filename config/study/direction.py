"""Direction: does the variance in v harm by the shorter step, or by the direction without a preconditioner?"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", eval_train_tokens=16_384)

_noise = dict(noise_sigma=0.1, noise_gamma=0.99)
_targets = ("second_moment_mean", "clean_direction", "noisy_direction")
arms = {"baseline": {}, **{target: {**_noise, "noise_target": target} for target in _targets}}
baseline = "baseline"
seeds = range(221, 227)
