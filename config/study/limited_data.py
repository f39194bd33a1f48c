"""Limited data: 50,000 training characters and time enough to learn them by heart.

Here a regularizer has something to do: the arm without any overfits. A method that only delays this wins on the
final loss and not on the best one; both are compared. And since the learning rate falls, an arm that is later
at its best is there at a lower rate: `delay` has the first noise's delay (its mean in AdamW's second moment)
without its randomness, and is compared with it. (`delay` was added after the first seed's run without noise had
been seen, and before any with noise.)
"""

base = "config/shakespeare_baseline.py"
common = dict(
    **dict(dtype="bfloat16", activation="gelu_tanh", train_tokens=50_000, max_iters=4000),
    **dict(eval_train_tokens=16_384, dropout=0.0, weight_decay=0.0),
)

_noise = {
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
_three = dict(dropout=0.2, weight_decay=0.1, input_noise=0.1)
arms = {
    "none": {},
    "dropout": dict(dropout=0.2),
    "weight_decay": dict(weight_decay=0.1),
    "augmentation": dict(input_noise=0.1),
    **_noise,
    "delay": {**_noise["noise_0.1_0.99"], "noise_target": "second_moment_mean"},
    "dropout+noise_0.01_0.95": {"dropout": 0.2, **_noise["noise_0.01_0.95"]},
    "three": _three,
    "three+noise_0.01_0.95": {**_three, **_noise["noise_0.01_0.95"]},
}
baseline = "none"
versus = {
    "delay": "noise_0.1_0.99",
    "dropout+noise_0.01_0.95": "dropout",
    "three+noise_0.01_0.95": "three",
}
seeds = range(1, 7)
