"""How much the loss rises when weights are changed: against its formula, and from a run to the report."""

import json
import shutil

import pytest
import torch
from conftest import checkpoint
from made_up import make_study

from analysis import collect, findings, tables
from analysis.arms import read_settings
from analysis.sentences import Study, read_studies
from analysis.statistics import compare, interval
from config import UserError
from data.corpus import Corpus
from data.files import read_json, write_json
from model import GPT
from noise import stream_seed
from training import sharpness
from training.evaluate import mean_loss


def test_the_rise_of_a_quadratic_is_its_formula(monkeypatch):
    """E L(w + rho |w| xi) - L(w) = rho^2 / 2 * sum of h w^2, for L = sum of h w^2 / 2."""
    monkeypatch.setattr(sharpness, "DRAWS", 400)
    model = torch.nn.Linear(50, 4, bias=False)
    h = torch.rand(4, 50)

    def loss():
        return float((h * model.weight.detach() ** 2).sum() / 2)

    for rho in (0.5, 1.0):
        found = torch.tensor(sharpness.rises(model, loss, rho))
        error = 4 * found.std() / 20  # of the mean of 400
        assert found.mean().item() == pytest.approx(rho**2 * loss(), abs=error.item())
        assert error < 0.3 * rho**2 * loss()


def changes_of(model):
    """What `rises` does to a model's weights at rho 0.05, over |w|: a row for each time that it looks."""
    weights, seen = [parameter.clone() for parameter in model.parameters()], []

    def loss():
        ratios = [(p / w - 1) * w.sign() for p, w in zip(model.parameters(), weights)]
        seen.append(torch.cat([ratio.flatten() for ratio in ratios]))
        return 0.0

    sharpness.rises(model, loss, 0.05)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights)), "as they were before"
    return torch.stack(seen)


def test_the_draws_are_relative_to_the_weights_and_the_same_for_all():
    changed, others = (changes_of(torch.nn.Linear(20, 3)) for _ in range(2))
    torch.testing.assert_close(changed, others, rtol=1e-3, atol=1e-4)
    assert torch.equal(changed[0], torch.zeros(63)), "the loss without a change"
    assert changed[1:].std().item() == pytest.approx(0.05, rel=0.1)
    assert len(torch.unique(changed[:, 0])) == sharpness.DRAWS + 1


def test_a_run_is_measured_where_it_ended(run, corpus, capsys):
    folder = run(train_tokens=600, eval_train_tokens=600)
    assert sharpness.main([str(folder)]) == 0
    found = read_json(folder / "sharpness.json")
    assert (found["iter"], found["tokens"]) == (checkpoint(folder)["step"], 599)
    mean = sum(found["rises"]["0.1"]) / sharpness.DRAWS
    assert f"{mean:+.4f} at rho 0.1" in capsys.readouterr().out
    text = Corpus(str(corpus), "cpu", 600)
    model = GPT.from_weights(checkpoint(folder)["model"]).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    direct = []
    for rho in (0.0, 0.1):
        for place, (name, parameter) in enumerate(model.named_parameters()):
            generator = torch.Generator().manual_seed(stream_seed(0, "sharpness", place))
            xi = torch.randn(parameter.shape, generator=generator)
            parameter.data = before[name] * (1 + rho * before[name].sign() * xi)
        direct.append(mean_loss(model, text.windows("train", 16)))
    assert found["rises"]["0.1"][0] == pytest.approx(direct[1] - direct[0], abs=1e-5)
    sharpness.main([str(folder)])
    assert read_json(folder / "sharpness.json") == found
    run(train_tokens=600, eval_train_tokens=600, overwrite=True)
    assert not (folder / "sharpness.json").exists(), "it was of other weights"


def test_its_mistakes_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([tmp_path / "empty"], "which finished runs"),
        ([], "which finished runs"),
        (["--rho=1"], "is no option"),
        ([tmp_path / "nowhere"], "no such folder"),
    ):
        with pytest.raises(UserError, match=said):
            sharpness.main([*map(str, words)])


def test_what_cannot_be_measured_is_said_and_stops_no_other(run, tmp_path, capsys):
    for name in ("a_gone", "b_diverged", "c_good"):
        run(name, max_iters=5)
    (tmp_path / "a_gone" / "last.pt").unlink()
    write_json(tmp_path / "b_diverged" / "result.json", {"status": "diverged", "diverged_at": 4})
    assert sharpness.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "a_gone: its weights are gone, left out" in said
    assert "b_diverged: diverged, left out" in said
    assert [path.parent.name for path in tmp_path.rglob("sharpness.json")] == ["c_good"]


def measure(folder, by):
    """sharpness.json for each run of a study, made up: rises {arm: rise of seed 0 at rho 0.1}."""
    for path in folder.rglob("result.json"):
        arm, seed = path.parts[-3], int(path.parts[-2].removeprefix("seed"))
        if arm in by:
            rises = {
                "0.05": [by[arm] / 4] * 3,
                "0.1": [by[arm] + 0.01 * seed**2 + 0.001 * draw for draw in (-1, 0, 1)],
            }
            write_json(path.parent / "sharpness.json", {"iter": 1000, "tokens": 9, "rises": rises})


def test_what_was_measured_is_tabled_and_told_in_pairs(tmp_path):
    arms = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "unmeasured": {"noise_sigma": 0.2}}
    folder = make_study(tmp_path / "flatness" / "cpu", arms, seeds=(1, 2, 3, 4), name="flatness")
    assert "Open: `sharpness.py` has measured no run of these." in findings.findings(read_studies(tmp_path))
    assert tables.sharpness_table(Study(folder).settings[0]) is None
    measure(folder, {"baseline": 0.2, "noise": 0.15})
    (setting,) = read_settings([folder])
    rows = {row[0]: row for row in tables.sharpness_table(setting).rows}
    assert list(rows) == ["baseline", "noise"]
    losses = [setting.arm(name).losses("rise_0.1") for name in ("noise", "baseline")]
    assert losses[0][2] == pytest.approx(0.19)
    assert rows["noise"][1] == "4"
    assert rows["noise"][4].startswith("0.2250 ± ")
    text = findings.findings(read_studies(tmp_path))
    c = compare(*(setting.arm(name).losses("final_train_loss") for name in ("noise", "baseline")))
    said = f"train loss {c.mean:+.4f} ± {c.half:.4f}, at rho 0.05 -0.0125 ± 0.0000, at rho 0.1 -0.0500 ± 0.0000"
    assert f"- `noise` minus `baseline`: {said} (n = 4)." in text
    assert "- `unmeasured` minus `baseline`: train loss" not in text
    section = text[text.index("## Does it find flatter minima?") : text.index("## Against what else")]
    assert "    python sharpness.py out/flatness/cpu\n" in section
    assert (
        "rises, by these intervals, less at every rho: `noise`; more at every rho: none; neither: none."
        in section
    )
    assert "Open" not in section
    c = compare(*(setting.arm(name).losses("best_val_loss") for name in ("noise", "baseline")))
    assert f"- `noise` minus `baseline`: {c.mean:+.4f} ± {c.half:.4f} (n = 4, " in section
    (folder / "noise" / "seed4" / "sharpness.json").unlink()
    (setting,) = read_settings([folder])
    row = tables.sharpness_table(setting).rows[1]
    train = [setting.arm("noise").losses("final_train_loss")[seed] for seed in (1, 2, 3)]
    assert row[1:3] == ["3", tables.with_interval(*interval(train))], "of the runs that were measured"


@pytest.mark.parametrize(
    ("rise", "said"),
    [
        (0.25, "less at every rho: none; more at every rho: `noise`; neither: none."),
        (0.2, "less at every rho: none; more at every rho: none; neither: `noise`."),
    ],
)
def test_noise_alone_is_told_to_be_flatter_or_sharper(tmp_path, rise, said):
    arms = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "rate": {"noise_sigma": 0.1, "learning_rate": 9e-3}}
    measure(make_study(tmp_path / "flatness" / "cpu", arms), {"baseline": 0.2, "noise": rise, "rate": 0.1})
    text = findings.findings(read_studies(tmp_path))
    assert f"arms that are their reference but for noise rises, by these intervals, {said}" in text
    path = tmp_path / "flatness" / "cpu" / "noise" / "seed1" / "sharpness.json"
    write_json(path, {"iter": 1000, "tokens": 9, "rises": {"0.05": [-0.5] * 3, "0.1": [0.5] * 3}})
    text = findings.findings(read_studies(tmp_path))
    assert "less at every rho: none; more at every rho: none; neither: `noise`." in text, "one seed decides it"


def test_what_was_measured_is_collected(tmp_path):
    folder = make_study(tmp_path / "out" / "tiny" / "cpu", {"baseline": {}, "noise": {"noise_sigma": 0.1}})
    for path in folder.rglob("run.json"):
        write_json(path, json.loads(path.read_text()) | {"began": "2026-11-22"})
    measure(folder, {"baseline": 0.2})
    collect.main([str(folder), f"--to={tmp_path / 'results'}"])
    there = tmp_path / "results" / "tiny" / "cpu"
    assert len(list(there.rglob("sharpness.json"))) == 3
    shutil.rmtree(folder)
    assert read_settings([there])[0].arm("baseline").losses("rise_0.1")[1] == pytest.approx(0.21)
