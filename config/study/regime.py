"""The paper's regime, scaled: does the noise help where training overfits, as the paper's does?

Run it with config/regime.py. All arms have the learning rate that is best for the baseline in regime_rates.py,
on seeds that are not these: the paper too has one rate for all.

Written before the runs: noise delays training, and here the lowest validation loss comes before the end, so
that a delay costs little. We expect of the first cell a best validation loss within 0.01 of the baseline's, a
higher final train loss, and a lower final validation loss; of the second the same, less of it. Refuted: the
first cell's 95 % interval of the best validation loss lies above 0.02, or its final train loss is not higher.
Eight seeds were planned. They were cut to five before the first run, for time.
"""

base = "config/shakespeare_baseline.py"
common = dict(dtype="bfloat16", learning_rate=4e-3, min_lr=4e-4)

arms = {
    "baseline": {},
    "noise_0.1_0.99": dict(noise_sigma=0.1, noise_gamma=0.99),
    "noise_0.01_0.95": dict(noise_sigma=0.01, noise_gamma=0.95),
}
baseline = "baseline"
seeds = range(273, 278)
