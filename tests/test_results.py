"""What is written by hand in the study files agrees with the records under results/, and what ships works."""

from pathlib import Path

import pytest
from conftest import own

import sample
from analysis.records import arms, read
from config import ROOT
from config.study import read_study

RESULTS, CPU = ROOT / "results", [ROOT / "config" / "cpu.py"]


def best_rate(study, kind=""):
    """The learning rate of the lowest mean val loss among the arms of a held-out study, and whether it is an
    inner one."""
    runs = read([RESULTS / study / "cpu"]).runs
    runs = runs[runs.arm.str.startswith(f"{kind}lr") & (runs.status == "finished")]
    means = runs.groupby("learning_rate").best_val_loss.mean()
    return means.idxmin(), means.index.min() < means.idxmin() < means.index.max()


def rate_of(study, arm):
    runs = read_study(ROOT / "config" / "study" / f"{study}.py", CPU).runs
    (rate,) = {run.config.learning_rate for run in runs if run.arm == arm}
    return rate


@pytest.mark.parametrize(
    ("study", "arm", "held_out", "kind"),
    [
        *(
            ("best_against_best", arm, "tuning", f"{arm}_")
            for arm in ("baseline", "warmup500", "noise_0.1_0.99", "noise_0.01_0.95")
        ),
        ("mechanism", "tuned", "tuning", "baseline_"),
        ("mechanism", "warmup500_tuned", "tuning", "warmup500_"),
        ("noisytune_tuned", "fine_tuning", "noisytune_rates", "fine_tuning_"),
        ("noisytune_tuned", "lambda0.15", "noisytune_rates", "lambda0.15_"),
        ("optimizers", "sgd", "sgd_rates", ""),
        ("optimizers", "sgd+noise", "sgd_rates", ""),
    ],
)
def test_a_tuned_rate_is_the_best_on_seeds_of_its_own_and_an_inner_one(study, arm, held_out, kind):
    rate, inner = best_rate(held_out, kind)
    assert rate_of(study, arm) == rate
    assert inner
    judged = read_study(ROOT / "config" / "study" / f"{study}.py", CPU).seeds
    assert not set(judged) & set(read_study(Path(ROOT / "config" / "study" / f"{held_out}.py"), CPU).seeds)


def test_the_model_that_ships_writes_text_as_soon_as_it_is_there(capsys):
    folders = sorted({path.parent for path in own("results/models/*/*")})
    assert folders
    for folder in folders:
        assert sample.main([str(folder), "--prompt=ROMEO:", "--max_new_tokens=120", "--device=cpu"]) == 0
        text = capsys.readouterr().out
        assert len(set(text.split()) & {"the", "and", "to", "of", "my", "you", "I", "that"}) >= 3, text


def test_the_records_are_whole_and_light():
    records = read([RESULTS])
    table = arms(records)
    assert set(records.studies) <= set(zip(table.study, table["size"]))
    for (name, size), study in records.studies.items():
        planned = read_study(ROOT / "config" / "study" / f"{name}.py", [] if size == "full" else CPU)
        assert {**planned.record(), "size": size}.items() <= {**study, "seeds": planned.seeds}.items()
        assert [*study["seeds"]] == [*planned.seeds]
        assert set(table.arm[table.study == name]) <= set(planned.arms)
    files = [path for path in own("results/**/*") if path.is_file()]
    assert len(files) < 200
    assert sum(path.stat().st_size for path in files) < 8e6
