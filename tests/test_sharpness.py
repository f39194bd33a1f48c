"""How much the loss rises when weights are changed: against its formula, and of a run."""

import pytest
import torch
from conftest import checkpoint
from made_up import DIVERGED, edit
from torch.nn.attention import SDPBackend, sdpa_kernel

from config import UserError
from data.corpus import Corpus
from data.files import read_json, write_json
from model import GPT, GPTConfig
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


@pytest.mark.parametrize("sign", [1, -1])
def test_the_hessian_is_the_exact_one(sign, monkeypatch):
    """Of a tiny GPT, against all second derivatives; of -L too, whose top eigenvalue is below 0."""
    monkeypatch.setattr(sharpness, "RESIDUAL", 1e-4)
    generator = torch.Generator().manual_seed(1)
    model = GPT.create(GPTConfig(7, block_size=5, n_layer=1, n_head=2, n_embd=4, dropout=0.2), seed=1).double()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    batches = [torch.randint(7, (2, rows, 5), generator=generator).unbind() for rows in (3, 2)]
    monkeypatch.setattr(model, "forward", lambda *batch: (None, sign * GPT.forward(model, *batch)[1]))
    found = sharpness.hessian(model, batches)
    names, values = zip(*model.named_parameters())

    def loss(*values):
        state = dict(zip(names, values))
        losses = [torch.func.functional_call(model, state, batch)[1] for batch in batches]
        return (3 * losses[0] + 2 * losses[1]) / 5

    with sdpa_kernel(SDPBackend.MATH):
        rows = torch.autograd.functional.hessian(loss, values)
    matrix = torch.cat([torch.cat([b.reshape(v.numel(), -1) for b in row], 1) for v, row in zip(values, rows)])
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert found["top"] == pytest.approx(max(eigenvalues.tolist(), key=abs), rel=1e-6)
    for draw, trace in enumerate(found["traces"]):
        generator = torch.Generator().manual_seed(stream_seed(draw, "trace"))
        draws = [torch.randn(value.shape, generator=generator).flatten() for value in values]
        v = torch.cat(draws).sign().double()
        assert trace == pytest.approx((v @ matrix @ v).item(), rel=1e-6)
    assert (found["tokens"], len(found["traces"])) == (25, sharpness.DRAWS)


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
    matrices = [p.detach().flatten() for name, p in model.named_parameters() if "ln_" not in name]
    assert measured["weight_rms"] == pytest.approx(torch.cat(matrices).square().mean().sqrt().item())
    losses = [mean_loss(model, text.windows("train", 16))]
    for place, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(stream_seed(3, "sharpness", place))
        xi = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * parameter.data.abs() * xi
    losses.append(mean_loss(model, text.windows("train", 16)))
    assert measured["hessian"]["tokens"] == 599
    assert len(set(measured["hessian"]["traces"])) == sharpness.DRAWS
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
    for name in ("a_damaged", "a_gone", "b_diverged", "c_good"):
        run(name, max_iters=5)
    (tmp_path / "a_damaged" / "result.json").write_text("{")
    (tmp_path / "a_gone" / "last.pt").unlink()
    write_json(tmp_path / "b_diverged" / "result.json", DIVERGED)
    capsys.readouterr()
    assert sharpness.main([str(tmp_path)]) == 0
    named = {line.split(":")[0] for line in capsys.readouterr().out.splitlines()}
    assert named == {str(tmp_path / name) for name in ("a_damaged", "a_gone", "b_diverged", "c_good")}
    assert [path.parent.name for path in tmp_path.rglob("sharpness.json")] == ["c_good"]
    (tmp_path / "c_good" / "sharpness.json").unlink()
    edit(run("b_of_classify", max_iters=5) / "config.json", task="rte", model="m")
    with pytest.raises(UserError, match="b_of_classify"):
        sharpness.main([str(tmp_path)])
    assert (tmp_path / "c_good" / "sharpness.json").exists()
