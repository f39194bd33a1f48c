"""NoisyTune: noise in the pretrained weights before fine-tuning, beside noise in the gradients.

All runs but those from scratch start from one model of config/pretrain_text8_small.py, trained first at the
same size: the seeds vary the fine-tuning of that model, not the model.
"""

base = "config/finetune_shakespeare.py"
common = dict(dtype="bfloat16", activation="gelu_tanh", max_iters=1000, eval_interval=100)

_noise = dict(noise_sigma=0.01, noise_gamma=0.95)
_lambda = dict(noisytune_lambda=0.15)
arms = {
    "fine_tuning": {},
    **{f"lambda{lam:g}": dict(noisytune_lambda=lam) for lam in (0.05, 0.1, 0.15, 0.2, 0.3)},
    "gaussian": dict(noisytune_distribution="gaussian", **_lambda),
    "global_std": dict(noisytune_std="global", **_lambda),
    "gradient_noise": _noise,
    "both": {**_lambda, **_noise},
    "from_scratch": dict(init_from=None),
}
baseline = "fine_tuning"
seeds = range(1, 7)
