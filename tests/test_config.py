"""Options: files, command line, checks, and one line for every mistake."""

import dataclasses
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import noise
from config import (
    OPTIONS,
    ROOT,
    Config,
    UserError,
    before_torch,
    identity,
    load,
    recorded,
    run_script,
    settle,
    user_path,
)
from config._classify import Classify
from config._options import help_text, options_of
from config.study import MOST_RUNS, parse_seeds, read_study


def test_the_later_wins(tmp_path):
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text("max_iters = 100\nn_layer = 3\n")
    second.write_text("from math import floor\n_half = floor(7 / 2)\nn_layer = _half + 1\n")
    config = load([str(first), "--seed=5", str(second), "--max_iters=300"])
    assert (config.max_iters, config.n_layer, config.seed) == (300, 4, 5)
    assert config.out_dir == "out/first+second/seed5"


def test_derived_options_follow_what_they_derive_from():
    config = load(["--seed=3", "--max_iters=200", "--learning_rate=1"])
    assert (config.data_seed, config.lr_decay_iters, config.noise_steps) == (3, 200, 200)
    assert type(config.learning_rate) is float, "an int is accepted for it"
    assert config.min_lr == pytest.approx(0.1)
    assert load(["--seed=3", "--data_seed=8"]).data_seed == 8


def test_what_nanogpt_says_with_the_same_meaning_is_accepted(tmp_path):
    assert load(["--compile=True"]).compile == "on"
    (tmp_path / "theirs.py").write_text("compile = False\ninit_from = 'scratch'\n")
    for argv in ([str(tmp_path / "theirs.py")], ["--compile=False", "--init_from=scratch"]):
        assert (load(argv).compile, load(argv).init_from) == ("off", None)


def test_a_run_that_is_shorter_than_its_warm_up_shortens_what_was_not_typed_and_says_so(tmp_path):
    said, preset = [], tmp_path / "preset.py"
    preset.write_text("warmup_iters = 300\nmax_iters = 1000\n")
    for words, warmup in (
        (["--max_iters=20"], 2),
        (["--lr_decay_iters=50"], 5),
        (["--max_iters=300"], 300),
        (["--max_iters=20", "--lr_decay_iters=900"], 300),
        (["--max_iters=20", "--warmup_iters=20"], 20),
    ):
        assert load([str(preset), *words], said.append).warmup_iters == warmup
    assert len(said) == 2, "what fits is left as it is"
    preset.write_text("warmup_iters = 300\nmax_iters = 100\n")
    assert load([str(preset)], said.append).warmup_iters == 10
    assert len(said) == 3
    with pytest.raises(UserError, match="warmup_iters=300"):
        load([str(preset), "--warmup_iters=300"])


def test_a_config_is_looked_for_here_and_then_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(["config/cpu.py"]).n_layer == 4
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "cpu.py").write_text("n_layer = 7\r\nn_head = 4\r\n")
    assert (load(["config/cpu.py"]).n_layer, load(["config/cpu.py"]).n_head) == (7, 4)
    assert read_study("config/study/quickstart.py", ["config/cpu.py"]).runs[0].config.n_layer == 7


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_a_command_runs_with_its_outputs_closed_or_in_a_notebook(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(SystemExit) as end:
        run_script(lambda _: print("é", flush=True) or sys.stdout.flush() or print("é", file=sys.stderr))
    assert not end.value.code


@pytest.mark.skipif(os.name == "nt", reason="Windows has no broken pipes")
def test_a_reader_that_has_enough_is_no_mistake():
    code = "from config import run_script; usage = '0\\n' * 10**6; run_script(lambda _: print(usage), usage)"
    for words in ([], ["--help"]):
        program = [sys.executable, "-c", code, *words]
        writer = subprocess.Popen(program, stdout=-1, stderr=-1, cwd=ROOT, text=True)
        assert writer.stdout.readline() == "0\n"
        writer.stdout.close()
        assert (writer.stderr.read(), writer.wait()) == ("", 141)


@pytest.mark.parametrize(
    ("given", "words"),  # a command line, or the text of a file
    [
        ("--learning_rte=1", ["learning_rte", "did you mean 'learning_rate'"]),
        ("--batch_size=1.5", ["batch_size", "int", "'1.5'"]),
        ("--bias=maybe", ["bias", "bool", "'maybe'"]),
        ("--seed 3", ["--seed", "--key=value"]),
        ("--overwrite", ["for instance --overwrite="]),
        ("--noise-sigma=0.1", ["for instance --noise_sigma=0.1"]),
        ("seed=2", ["did you mean --seed=2"]),
        *((word, ["training.evaluate"]) for word in ("eval_only=True", "--eval-only", "--eval_only=True")),
        ("--learning-rte 1", ["did you mean 'learning_rate'"]),
        ("--num_train_epochs=3", ["use --max_iters"]),
        ("--eval_iters=20", ["use --eval_tokens"]),
        ("--model_name=gpt2", ["--help"]),  # --model is the other program's
        ("config/train_shakespeare_char.py", ["did you mean 'config/shakespeare_baseline.py'"]),
        ("--out_dir=", ["out_dir is empty"]),
        ("--max_iters=99999999999999999999", ["max_iters", "1e8"]),
        ("--learning_rate=1e999", ["learning_rate=inf"]),
        ("--learning_rate=nan", ["learning_rate=nan"]),
        ("--batch_size=" + "9" * 400, ["batch_size", "1e12"]),
        ("--dropout=1", ["dropout=1.0", "under 1"]),
        ("--noise_gamma=1.1", ["noise_gamma=1.1", "from 0 to 1"]),
        ("--device=gpu", ["'gpu'", "cuda"]),
        ("--device=cuda:01", ["'cuda:01'", "cuda:N"]),
        ("--noise_schedule=exponetial", ["'exponetial'", "did you mean 'exponential'"]),
        ("config/study/mechanism.py", ["is a study", "python sweep.py config/study/mechanism.py"]),
        ("config/shakespear_noise.py", ["no config file", "did you mean 'config/shakespeare_noise.py'"]),
        ("noise_sigma = lambda t: 0.1 * 0.99**t\n", ["noise_sigma is an option", "not a function"]),
        ("--n_head=5", ["n_embd=384", "n_head=5"]),
        ("--noise_schedule=inverse", ["noise_eta"]),
        ("--noise_schedule=inverse --noise_eta=1 --noise_sigma=1", ["noise_sigma=0"]),
        ("--noise_eta=0.3", ["noise_eta=0.3", "inverse"]),
        ("--noise_sigma=1 --noise_steps=9", ["noise_steps=9", "'exponential'", "leave it out"]),
        ("--min_lr=1", ["min_lr=1.0", "learning_rate", "--min_lr=None"]),
        ("--compile=graphs --gradient_accumulation_steps=2", ["steps=1", "compile='on'"]),
        ("--max_iters=10 --warmup_iters=11", ["warmup_iters=11", "max_iters"]),
        ("--decay_lr=False", ["decay_lr", "min_lr"]),
        ("learning_rte = 1\n", ["bad.py", "learning_rte", "learning_rate"]),
        ("eval_iters = 1\nn_heads = 1\n", ["bad.py", "'eval_iters'", "'n_heads'"]),
        ("learning_rate = 10**400\n", ["bad.py", "learning_rate", "float"]),
        ("seed = 'one'\n", ["bad.py", "seed", "int", "'one'"]),
        ("# nothing\n", ["bad.py", "sets no option"]),
        ("seed = None\n", ["seed must be int, not None"]),
        ("batch_size = True\n", ["bad.py", "batch_size", "int", "True"]),
        ("batch_size = 1e3\n", ["bad.py", "batch_size", "int", "1000.0"]),
        ("from sys import exit\nexit(0)\n", ["bad.py, line 2", "SystemExit"]),
        ("seed = 1\nn_layer = = 2\n", ["bad.py, line 2", "SyntaxError"]),
        ("seed = 1\n\nn_layer = seed / 0\n", ["bad.py, line 3", "ZeroDivisionError"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, given, words):
    (tmp_path / "bad.py").write_text(given)
    with pytest.raises(UserError) as error:
        load([str(tmp_path / "bad.py")] if "\n" in given else given.split())
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


STRANGE = (
    *(True, None, 0, -1, -0.0, 10**5000, -(10**5000), math.inf, math.nan, [], {}, [10**5000], b"x"),
    *("", " ", "a\nb", "\0", "\x1b[2J", "\udcff", "~nosuchuser/x", "9" * 5000, "nan", "-inf", "1e400", "-0.0"),
)


def outcome(call, *arguments):
    """(what a call returns, None), or (None, what it says in a UserError)."""
    try:
        return call(*arguments), None
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_strange_value_is_one_line_or_one_that_can_be_recorded(name):
    ways = [lambda value: settle({name: value}), lambda value: recorded({name: value})]
    ways += [lambda value: load([f"--{name}={value}", "--max_iters=50", "--warmup_iters=10"], say=str)]
    for value in STRANGE:
        for read in ways[: 2 + isinstance(value, str)]:
            config, said = outcome(read, value)
            if said:
                assert said.isprintable()
                assert len(said) < 500
                assert name in said
                continue
            written = json.dumps(dataclasses.asdict(config), ensure_ascii=False, allow_nan=False)
            assert recorded(json.loads(written.encode())) == config
            assert written.isprintable()


def test_a_path_is_what_was_written_and_a_tilde_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert user_path("~/out/é  x") == Path("/home/ada/out/é  x")
    assert user_path(Path("a/~b")) == Path("a/~b")


@pytest.mark.parametrize(
    "seeds",
    [
        *(
            "1-1000000000",
            "1-99999999999999999999",
            "9" * 5000,
            "1-" + "9" * 5000,
            "5-4",
            "²",
            "1-6000,10001-16000",
        ),
        *(range(10**9), range(10**30), [10**5000, -1], [10**5000] * 2, range(MOST_RUNS), [True], ["1"]),
    ],
    ids=lambda seeds: str(type(seeds)),
)
def test_seeds_without_end_are_one_line(tmp_path, seeds):
    (tmp_path / "many.py").write_text(
        'base, baseline, common = "config/quickstart.py", "a", dict(dtype="float32")\n'
        'arms = {"a": {}, "b": dict(bias=True)}\nfrom test_config import _seeds as seeds\n'
    )
    globals()["_seeds"] = seeds
    with pytest.raises(UserError, match=r"^[^\n]{1,500}$"):
        parse_seeds(seeds) if isinstance(seeds, str) else read_study(tmp_path / "many.py")


@pytest.mark.parametrize(
    "line", ["base = [5]", "versus = {'a': ['b']}", "decisive = [[]]", "arms = {'a': {}, 5: {}}"]
)
def test_a_study_of_another_shape_is_one_line(tmp_path, line):
    (tmp_path / "odd.py").write_text(
        'base, baseline, common, seeds = "config/quickstart.py", "a", dict(dtype="float32"), [1]\n'
        f'arms = {{"a": {{}}, "b": dict(bias=True)}}\n{line}\n'
    )
    with pytest.raises(UserError, match=r"^[^\n]*odd\.py[^\n]*$"):
        read_study(tmp_path / "odd.py")


@pytest.mark.parametrize("kind", [Config, Classify])
def test_help_lists_every_option_with_its_default_comment_and_choices(kind):
    lines = help_text(kind).splitlines()
    for field in dataclasses.fields(kind):
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"  --{field.name}=")]
        assert len(lines[at].split("  ", 2)[2].strip()) > 10, f"{field.name} has no comment"
        assert all(choice in lines[at + 1] for choice in options_of(kind)[field.name].choices)
    with pytest.raises(SystemExit) as exit_:
        load(["--help"], kind=kind)
    assert exit_.value.code == 0


@pytest.mark.parametrize("kind", [Config, Classify])
def test_every_option_that_is_a_number_has_limits_and_every_word_its_choices(kind):
    for name, option in options_of(kind).items():
        if {int, float} & set(option.kinds):
            assert option.limits, name
        if option.kinds == (str,) and name not in ("dataset", "device", "task", "model"):
            assert option.choices, name
    for name, known in (
        ("schedule", noise.SCHEDULES),
        ("distribution", noise.DISTRIBUTIONS),
        ("scale", noise.SCALES),
    ):
        assert set(OPTIONS[f"noise_{name}"].choices) == set(known)


def test_cadence_logging_and_device_are_not_identity():
    here = settle({"seed": 2})
    looked_at = settle({"seed": 2, "eval_interval": 7, "log_interval": 3, "device": "cpu", "threads": 1})
    assert identity(here) == identity(looked_at)
    assert identity(here) == identity(settle({"seed": 2, "data_seed": 2, "min_lr": 1e-4}))
    assert identity(here) == identity(Config(seed=2)), "the derived ones are filled in"
    assert identity(here) != identity(settle({"seed": 2, "data_seed": 3}))
    assert recorded(dataclasses.asdict(here)) == here


def test_a_record_is_refused_where_it_has_an_option_that_is_no_more():
    here = dataclasses.asdict(settle({"noise_distribution": "laplace"}))
    assert recorded({"seed": 3}) == Config(seed=3, activation="gelu_tanh"), (
        "as it was before there was a choice"
    )
    with pytest.raises(UserError, match="'momentum'"):
        recorded({**here, "momentum": 0.9})


# The configs that come with it, alone and with the overlay.


def both(name):
    return [
        load([str(ROOT / f"config/{name}.py"), *overlay]) for overlay in ([], [str(ROOT / "config/cpu.py")])
    ]


@pytest.mark.parametrize(("name", "rate"), [("shakespeare", 1e-3), ("enwik8", 5e-4), ("text8", 5e-4)])
def test_the_methods_config_is_the_papers_baseline_but_for_its_noise(name, rate):
    for baseline, noisy in zip(both(f"{name}_baseline"), both(f"{name}_noise")):
        assert identity(noisy).items() - identity(baseline).items() == {("noise_sigma", 0.1)}
        assert (noisy.noise_schedule, noisy.noise_gamma) == ("exponential", 0.99)
        assert (baseline.noisy, noisy.noisy) == (False, True)
        rates = (baseline.learning_rate, baseline.min_lr, baseline.weight_decay, baseline.beta1)
        assert (*rates, baseline.beta2, baseline.grad_clip) == (rate, rate / 10, 0.1, 0.9, 0.99, 1.0)
    assert load([str(ROOT / f"config/{name}_noise.py"), "--learning_rate=8e-3"]).min_lr == 8e-4


def test_the_fine_tuning_configs_differ_in_noisytune_alone_and_fit_the_pretraining():
    names = ("pretrain_text8_small", "finetune_shakespeare", "finetune_shakespeare_noisytune")
    for source, plain, noisy in zip(*map(both, names)):
        assert identity(noisy).items() - identity(plain).items() == {("noisytune_lambda", 0.15)}
        assert (plain.noisytune_lambda, plain.init_from) == (0.0, source.out_dir)
        for name in ("n_layer", "n_head", "n_embd", "bias", "block_size"):
            assert getattr(plain, name) == getattr(source, name)
    gpt2 = load([str(ROOT / "config/finetune_gpt2_shakespeare.py")])
    assert (gpt2.n_layer, gpt2.n_head, gpt2.n_embd, gpt2.bias) == (12, 12, 768, True)
    assert gpt2.block_size <= 1024


@pytest.mark.parametrize(
    ("words", "status"), [(["--help"], 0), (["--learning_rte=1"], 2), (["a" * 300 + ".py"], 2)]
)
def test_a_command_line_is_answered_before_torch_is_loaded(words, status):
    command = [sys.executable, "-X", "importtime", ROOT / "train.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert re.search(r"\| +config$", done.stderr, re.MULTILINE)
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_the_first_answers_help(rank, capsys, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit) as end:
        before_torch(sys.argv[1:])
    assert not end.value.code
    assert bool(capsys.readouterr().out) == (rank == "0")


def test_threads_spin_for_less_unless_the_user_says_how_they_wait(monkeypatch):
    for given in ({}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}):
        monkeypatch.setattr(os, "environ", dict(given))
        before_torch(["--seed=2"])
        assert os.environ == (given or {"GOMP_SPINCOUNT": "3000"})
