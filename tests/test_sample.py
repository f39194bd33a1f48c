"""Text from a run folder: what it is a function of, its prompt, and one line for every mistake."""

import io
import itertools
import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import checkpoint, write_corpus
from made_up import edit, fake_run

import plot
import sample
import sweep
import train
from analysis import collect, report
from bench.__main__ import read_options as read_bench
from config import UserError
from data.build import write_corpus as write
from data.files import lock, read_json
from model import GPT
from training import evaluate, export, sharpness


def texts_of(output):
    """The samples that sample.py printed."""
    lines = output.split("\n")
    heads = [number for number, line in enumerate(lines) if line.startswith("--- sample ")]
    assert lines[-2:] == ["---", ""]
    return ["\n".join(lines[a + 1 : b]) for a, b in zip(heads, [*heads[1:], len(lines) - 2])]


@pytest.fixture
def texts(run, capsys):
    """texts(option=value, ...) are the samples of a small run in the folder `run`."""
    folder = run(max_iters=5)
    capsys.readouterr()

    def do(folder=folder, **options):
        options = {"max_new_tokens": 40, "device": "cpu", **options}
        assert sample.main([str(folder), *(f"--{name}={value}" for name, value in options.items())]) == 0
        return texts_of(capsys.readouterr().out)

    return do


@pytest.fixture
def byte_run(run, tmp_path):
    """A run on the bytes of a text with two characters beyond ASCII."""
    data = np.frombuffer(("é saw one ö.\n" * 200).encode(), np.uint8)
    write(tmp_path / "bytes", lambda: iter([data]), {"from": "a test", "sha256": "-"}, unit="byte")
    return run("of bytes", dataset=tmp_path / "bytes", max_iters=5)


def test_a_sample_is_a_function_of_seed_and_number(texts, monkeypatch, tmp_path):
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    three = texts(num_samples=3, seed=4)
    assert len(set(three)) == 3
    assert texts(num_samples=1, seed=4) == three[:1]
    assert texts(num_samples=3, seed=5)[0] not in three
    monkeypatch.setattr(sample, "TOGETHER", 2)
    assert texts(num_samples=3, seed=4) == three
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_the_sample_at_the_end_of_a_run_is_the_first_that_sample_draws(run, capsys):
    """From the best weights, which are not the last here."""
    folder = run(learning_rate=2.0, grad_clip=0.0, noise_sigma=0.0, eval_interval=1, sample_tokens=40)
    printed = [capsys.readouterr().out.split("---")[2].strip("\n")]
    assert checkpoint(folder, "best.pt")["iter"] < 12
    for _ in range(2):
        sample.main([str(folder), "--device=cpu", "--max_new_tokens=40", "--num_samples=1"])
        printed += [text.strip("\n") for text in texts_of(capsys.readouterr().out)]
        (folder / "best.pt").unlink(missing_ok=True)
    assert printed[0] == printed[1] != printed[2]


def test_temperature_0_is_the_likeliest_continuation_of_the_prompt(texts, tmp_path):
    folder = tmp_path / "run"
    model = GPT.from_weights(checkpoint(folder, "best.pt")["model"])
    meta = json.loads((folder / "run.json").read_text())["corpus"]
    tokens = [meta["vocabulary"].index(character) for character in "Ada saw"]
    for _ in range(9):
        tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
    greedy = "".join(meta["vocabulary"][token] for token in tokens)
    assert texts(prompt="Ada saw", temperature=0, max_new_tokens=9, num_samples=2) == [greedy] * 2
    assert texts(prompt="Ada saw", top_k=1, max_new_tokens=9) == [greedy]
    assert texts(prompt="Ada saw", max_new_tokens=9) != [greedy]


def test_a_prompt_from_a_file_is_that_prompt(texts, tmp_path):
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfBo saw\r\none")
    text = "Bo saw\none"
    assert texts(prompt=f"FILE:{tmp_path / 'prompt.txt'}") == texts(prompt=text)
    (longer,) = texts(prompt=text * 5)  # than block_size
    assert longer.startswith(text * 5)
    assert len(longer) == len(text * 5) + 40


def test_without_a_prompt_it_begins_after_a_new_line_or_the_first_symbol(run, texts, tmp_path, monkeypatch):
    starts, generate = [], GPT.generate
    monkeypatch.setattr(GPT, "generate", lambda self, idx, *r: starts.append(idx) or generate(self, idx, *r))
    for text in ("\tb a\n", "abcb"):
        folder = run(f"of {text!r}", dataset=write_corpus(tmp_path / repr(text), text * 300), max_iters=5)
        assert len(texts(folder, max_new_tokens=3)[0]) == 3
    assert [start.tolist() for start in starts] == [[[1]], [[0]]]  # \n after \t; a


def test_bytes_are_prompted_in_utf8_and_printed_as_text(byte_run, texts, tmp_path):
    (tmp_path / "half.txt").write_bytes("saw é".encode()[:-1])
    for prompt, start in (("é saw", "é saw"), (f"FILE:{tmp_path / 'half.txt'}", "saw \ufffd")):
        assert texts(byte_run, prompt=prompt, max_new_tokens=1)[0][:4] == start[:4]
    with pytest.raises(UserError, match="'à', 'z'"):
        sample.main([str(byte_run), "--prompt=é àz", "--device=cpu"])


def test_a_run_folder_is_enough_and_last_stands_in_for_best(run, tmp_path, capsys, corpus):
    shutil.copytree(corpus, tmp_path / "data")
    knobs = {"learning_rate": 2.0, "grad_clip": 0.0, "noise_sigma": 0.0, "eval_interval": 1}
    folder = run(dataset=tmp_path / "data", **knobs)
    shutil.rmtree(tmp_path / "data")
    said = []
    for name in ("best.pt", "last.pt"):
        capsys.readouterr()
        sample.main([str(folder), "--device=cpu"])
        said.append(capsys.readouterr())
        assert f"{folder}/{name}" in said[-1].err
        (folder / name).unlink()
    assert said[0].out != said[1].out


@pytest.mark.parametrize(
    "option",
    [
        *("--tmperature=1", "--temperature=hot", "--temperature=-1", "--temperature=nan", "--temperature=inf"),
        *("--top_k=0", "--num_samples=0", "--max_new_tokens=1.5", "--seed=-1", "--device=gpu", "another"),
        *("--prompt=", "--prompt=FILE:none.txt"),
    ],
)
def test_a_mistake_in_the_options_is_one_line_that_names_it(tmp_path, option):
    fake_run(tmp_path)
    with pytest.raises(UserError, match=rf"^[^\n]*{option.split('=')[0].strip('-')}[^\n]*$"):
        sample.main([str(tmp_path), option])


COMMANDS = (
    *(train.main, sample.main, sweep.main, plot.main, evaluate.main, sharpness.main, collect.main, report.main),
    *(lambda words: export.main([*words, "new"]), lambda words: export.main(["run", *words])),
    *(lambda words: train.main([f"--out_dir={words[0]}"]), lambda words: read_bench([f"--out={words[0]}"])),
    *(lambda words: collect.main([f"--to={words[0]}"]), lambda words: plot.main(["run", f"--out={words[0]}"])),
    lambda words: sample.main(["run", f"--prompt=FILE:{words[0]}"]),
)


def test_a_path_that_can_be_none_is_one_line_in_every_command(run, monkeypatch, tmp_path):
    run(max_iters=1, warmup_iters=0)
    monkeypatch.chdir(tmp_path)
    for main, path in itertools.product(COMMANDS, ("~nosuchuser/x", "a\0b", "a\nb", "\udcff")):
        with pytest.raises(UserError, match=r"^[^\n\0]*without control characters[^\n\0]*$"):
            main([path])
    assert [path.name for path in Path().iterdir()] == ["run"]


def harm(folder, how):
    """Do something to a run folder that sample.py should answer with one line."""
    best, state = folder / "best.pt", checkpoint(folder, "best.pt")
    if how == "cut":
        best.write_bytes(best.read_bytes()[:500])
    elif how == "no weights":
        best.unlink()
        (folder / "last.pt").unlink()
    elif how == "no run.json":
        (folder / "run.json").unlink()
    else:
        if how == "not finite":
            state["model"]["state"]["ln_f.weight"][3] = torch.nan
        else:
            state["model"]["config"]["heads"] = 2
        torch.save(state, best)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        *((how, "best.pt") for how in ("cut", "an unknown shape", "not finite", "no weights")),
        ("no run.json", "run.json"),
    ],
)
def test_a_damaged_run_is_one_line(run, how, named):
    folder = run(max_iters=5)
    harm(folder, how)
    with pytest.raises(UserError, match=rf"^{folder}[^\n]*{named}[^\n]*$"):
        sample.main([str(folder), "--device=cpu"])


@pytest.mark.parametrize("main", [sample.main, evaluate.main, lambda words: export.main([*words, "new"])])
def test_a_folder_of_runs_is_answered_with_them(tmp_path, main):
    for seed in (1, 2):
        fake_run(tmp_path / "out" / "study" / "full" / "arm" / f"seed{seed}", seed)
    for folder in (tmp_path / "out" / "study", tmp_path / "out" / "study" / "full" / "arm"):
        with pytest.raises(
            UserError, match=rf"{folder} is no run folder.*{folder}\S*/seed1, {folder}\S*/seed2$"
        ):
            main([str(folder)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run folder") as caught:
        main([str(tmp_path / "empty")])
    assert "beneath" not in str(caught.value)


def test_the_command_that_an_export_prints_can_be_typed(run, tmp_path, capsys):
    export.main([str(run(max_iters=5)), str(folder := tmp_path / "it's a folder")])
    printed = capsys.readouterr().out.splitlines()[-1].partition("; ")[2]
    for text in (printed, (folder / "README.md").read_text().partition("```sh\n")[2].partition("\n")[0]):
        assert shlex.split(text)[:3] == ["python", "sample.py", str(folder)]


def test_in_a_notebook_it_prints_too(byte_run, monkeypatch):
    monkeypatch.setattr(sys, "stdout", cell := io.StringIO())
    sample.main([str(byte_run), "--prompt=é", "--max_new_tokens=2", "--device=cpu"])
    assert "\né" in cell.getvalue()


def test_it_prints_utf8_whatever_the_terminal(byte_run, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    sample.main([str(byte_run), "--prompt=é", "--max_new_tokens=2", "--device=cpu"])
    assert terminal.buffer.getvalue().startswith("--- sample 1 of 1, seed 1 ---\né".encode())


def test_the_sharpness_of_a_run_in_training_is_not_measured(run, monkeypatch):
    folder = run(max_iters=5)
    held = lock(folder / "lock")
    monkeypatch.setattr(sharpness, "sharpness", lambda *_: pytest.fail("it is measured"))
    with pytest.raises(UserError, match="another process is training into"):
        sharpness.main([str(folder)])
    held.release()
    monkeypatch.setattr(sharpness, "sharpness", lambda run, _: {"held": lock(run / "lock") is None} | MEASURED)
    assert sharpness.main([str(folder)]) == 0
    assert read_json(folder / "sharpness.json")["held"]


MEASURED = {"rises": {"0.1": [0.5]}, "hessian": {"top": 1.0, "traces": [1.0]}}


def test_no_script_that_a_run_names_is_run(run, tmp_path):
    folder = run(max_iters=5)
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "prepare.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(folder / "config.json", dataset=str(tmp_path / "strange"))
    for main in (evaluate.main, sharpness.main):
        with pytest.raises(UserError, match="not prepared"):
            main([str(folder)])
    assert not (tmp_path / "ran").exists()
