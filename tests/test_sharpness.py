"""How much the loss rises when weights are changed: against its formula, and of a run."""

import pytest
import torch
from conftest import checkpoint
from made_up import DIVERGED

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
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(50, 4, bias=False)
    model.weight.data.normal_(generator=generator)
    h, before = torch.rand(4, 50, generator=generator), model.weight.clone()

    def loss():
        return float((h * model.weight.detach() ** 2).sum() / 2)

    for rho in (0.5, 1.0):
        rises = torch.tensor(sharpness.rises(model, loss, rho))
        error = 4 * rises.std().item() / 20  # of the mean of 400
        assert rises.mean().item() == pytest.approx(rho**2 * loss(), abs=error)
        assert error < 0.3 * rho**2 * loss()
    assert torch.equal(model.weight, before)


def test_a_run_is_measured_where_it_ended_by_draws_that_all_runs_share(run, corpus):
    options = {"train_tokens": 600, "eval_train_tokens": 600}
    folder = run(**options)
    assert sharpness.main([str(folder)]) == 0
    measured = read_json(folder / "sharpness.json")
    assert (measured["iter"], measured["tokens"]) == (checkpoint(folder)["step"], 599)
    assert list(measured["rises"]) == ["0.02", "0.05", "0.1"]
    rises = measured["rises"]["0.1"]
    assert len(set(rises)) == sharpness.DRAWS
    text = Corpus(str(corpus), "cpu", 600)
    model = GPT.from_weights(checkpoint(folder)["model"]).eval()
    losses = [mean_loss(model, text.windows("train", 16))]
    for place, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(stream_seed(3, "sharpness", place))
        xi = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * parameter.data.abs() * xi
    losses.append(mean_loss(model, text.windows("train", 16)))
    assert rises[3] == pytest.approx(losses[1] - losses[0], abs=1e-5)
    sharpness.main([str(folder)])
    assert read_json(folder / "sharpness.json") == measured
    run(**options, overwrite=True)
    assert not (folder / "sharpness.json").exists(), "it was of other weights"


@pytest.mark.parametrize(("words", "named"), [([], "runs"), (["--rho=1"], "--rho=1")])
def test_its_mistakes_are_one_line(words, named):
    with pytest.raises(UserError, match=rf"^[^\n]*{named}[^\n]*$"):
        sharpness.main(words)


def test_a_run_that_cannot_be_measured_is_named_and_stops_no_other(run, tmp_path, capsys):
    for name in ("a_gone", "b_diverged", "c_good"):
        run(name, max_iters=5)
    (tmp_path / "a_gone" / "last.pt").unlink()
    write_json(tmp_path / "b_diverged" / "result.json", DIVERGED)
    capsys.readouterr()
    assert sharpness.main([str(tmp_path)]) == 0
    named = {line.split(":")[0] for line in capsys.readouterr().out.splitlines()}
    assert named == {str(tmp_path / name) for name in ("a_gone", "b_diverged", "c_good")}
    assert [path.parent.name for path in tmp_path.rglob("sharpness.json")] == ["c_good"]
