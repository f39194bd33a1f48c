"""The figures that the pages show: of which studies, and how (python plot.py results)."""

import functools

from analysis import effects, figures, harm, look, power_law

TABLE1 = ("table1_shakespeare", "table1_enwik8", "table1_text8")
CELLS = ("sigma0.1_gamma0.99", "sigma0.01_gamma0.95")
LIMITED = {
    "noise": ("none", "noise_0.1_0.99", "noise_0.01_0.95", "delay"),
    "ordinary regularizers": ("none", "weight_decay", "dropout", "augmentation", "three"),
}
NAMED = {  # points of `share`: label, and its offset in points
    ("table1_shakespeare", CELLS[0]): (look.cell_label(0.1, 0.99), (8, 3)),
    ("optimizers", "adamw_beta2_0.95+noise"): (r"$\beta_2$=0.95", (-7, -3)),
    ("optimizers", "adamw_beta2_0.999+noise"): (r"$\beta_2$=0.999", (6, 5)),
    ("schedules", "inverse_eta1"): (r"inverse, $\eta$=1", (6, 5)),
    ("schedules", "plateau"): ("plateau", (-6, 5)),
}
FIGURES = {
    "table1_loss": (TABLE1, figures.losses),
    "learning_rates": (("tuning",), effects.learning_rates),
    "learning_rates_finer": (("equivalence_rates",), effects.learning_rates),
    "learning_rates_long": (("long_tuned_rates",), effects.learning_rates),
    "noise_norms": (TABLE1[:1], functools.partial(figures.noise, names=CELLS)),
    "mechanism": (("mechanism",), figures.mechanism),
    "parts": (("mechanism", "two_effects", "decisive", "two_effects_long"), harm.parts),
    "direction": (("direction", "direction_long"), figures.differences),
    "share": (
        (*TABLE1, "sensitivity", "schedules", "optimizers"),
        functools.partial(harm.share, names=NAMED),
    ),
    "power_law": (power_law.STUDIES, harm.power),
    "sensitivity": (("sensitivity",), effects.sensitivity),
    "schedules": (("schedules",), functools.partial(effects.differences, by=effects.by_scale)),
    "flatness": (("curvature",), effects.flatness),
    "limited_data": (("limited_data",), functools.partial(figures.losses, parts=LIMITED)),
    "regime": (("regime", "regime_again"), figures.overview),
    "lambdas": (("noisytune_glue",), effects.lambdas),
}


def are_of(found):
    """Whether some Records hold every study that the pages show, each in one size."""
    studies = [study for study, _ in found.studies]
    return all(studies.count(study) == 1 for named, _ in FIGURES.values() for study in named)


def draw(found, out):
    """Write them; returns the paths."""
    paths = []
    for name, (studies, function) in FIGURES.items():
        paths += look.save(function(found.of(study=list(studies))), out / name)
    return paths
