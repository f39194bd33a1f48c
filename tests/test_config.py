"""Options: files, command line, checks, and one line for every mistake."""

import dataclasses
import subprocess
import sys

import pytest

import noise
from config import OPTIONS, ROOT, Config, UserError, help_text, identity, load, recorded, settle


def test_the_later_wins(tmp_path):
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text("max_iters = 100\nn_layer = 3\n")
    second.write_text("from math import floor\n_half = floor(7 / 2)\nn_layer = _half + 1\n")
    config = load([str(first), "--seed=5", str(second), "--max_iters=300"])
    assert (config.max_iters, config.n_layer, config.seed) == (300, 4, 5)
    assert config.out_dir == "out/first+second/seed5"


def test_derived_options_follow_what_they_derive_from():
    config = load(["--seed=3", "--max_iters=200", "--learning_rate=0.5"])
    assert (config.data_seed, config.lr_decay_iters, config.noise_steps) == (3, 200, 200)
    assert config.min_lr == pytest.approx(0.05)
    assert load(["--seed=3", "--data_seed=8"]).data_seed == 8


def test_what_nanogpt_says_with_the_same_meaning_is_accepted(tmp_path):
    assert [load([f"--compile={text}"]).compile for text in ("True", "False")] == ["on", "off"]
    assert load(["--init_from=scratch"]).init_from is None
    (tmp_path / "theirs.py").write_text("compile = False\ninit_from = 'scratch'\n")
    config = load([str(tmp_path / "theirs.py")])
    assert (config.compile, config.init_from) == ("off", None)


def test_a_shorter_run_on_the_command_line_shortens_the_warm_up_of_its_preset_and_says_so(tmp_path):
    said = []
    preset = tmp_path / "preset.py"
    preset.write_text("warmup_iters = 300\nmax_iters = 1000\n")
    assert load([str(preset), "--max_iters=20"], said.append).warmup_iters == 2
    assert load(["--lr_decay_iters=50"], said.append).warmup_iters == 5
    assert len(said) == 2
    assert load([str(preset), "--max_iters=300"], said.append).warmup_iters == 300
    assert load([str(preset), "--max_iters=20", "--lr_decay_iters=900"], said.append).warmup_iters == 300
    assert load([str(preset), "--max_iters=20", "--warmup_iters=20"], said.append).warmup_iters == 20
    assert len(said) == 2, "what fits is left as it is"
    preset.write_text("warmup_iters = 300\nmax_iters = 100\n")
    with pytest.raises(UserError, match="warmup_iters=300"):
        load([str(preset)])


def test_the_options_and_their_help_need_no_torch():
    code = (
        "import config, sys; config.load(['--seed=2']); config.help_text(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_another_learning_rate_takes_the_papers_configs_to_a_tenth_of_it():
    for name in ("shakespeare", "enwik8", "text8"):
        for kind in ("baseline", "noise"):
            file = f"config/{name}_{kind}.py"
            assert load([file]).min_lr == (1e-4 if name == "shakespeare" else 5e-5)
            assert load([file, "--learning_rate=8e-3"]).min_lr == 8e-4


def test_int_is_accepted_for_float():
    assert load(["--learning_rate=1"]).learning_rate == 1.0
    assert type(load(["--learning_rate=1"]).learning_rate) is float


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--learning_rte=1"], ["learning_rte", "did you mean 'learning_rate'"]),
        (["--batch_size=1.5"], ["batch_size", "int", "'1.5'"]),
        (["--bias=maybe"], ["bias", "bool", "'maybe'"]),
        (["--seed", "3"], ["--seed", "--key=value"]),
        (["--lr"], ["--key=value"]),
        (["--overwrite"], ["for instance --overwrite="]),
        (["seed=2"], ["did you mean --seed=2"]),
        (["--out_dir="], ["out_dir is empty"]),
        (["--threads=100000"], ["threads=100000", "1024"]),
        (["--noise_sigma=1e300"], ["noise_sigma=1e+300"]),
        (["--max_iters=99999999999999999999"], ["max_iters", "1e8"]),
        (["--learning_rate=1e999"], ["learning_rate=inf"]),
        (["--batch_size=" + "9" * 400], ["batch_size", "1e12"]),
        (["--noise-sigma=0.1"], ["for instance --noise_sigma=0.1"]),
        (["config/study/mechanism.py"], ["is a study", "python sweep.py config/study/mechanism.py"]),
        (["nowhere.py"], ["no config file nowhere.py"]),
        (["config/shakespear_noise.py"], ["did you mean 'config/shakespeare_noise.py'"]),
        (["--n_head=5"], ["n_embd=384", "n_head=5"]),
        (["--dropout=1"], ["dropout=1.0", "under 1"]),
        (["--learning_rate=nan"], ["learning_rate=nan"]),
        (["--noise_gamma=1.1"], ["noise_gamma=1.1", "from 0 to 1"]),
        (["--noise_schedule=exponetial"], ["'exponetial'", "did you mean 'exponential'"]),
        (["--noise_schedule=inverse"], ["noise_eta"]),
        (["--noise_schedule=inverse", "--noise_eta=1", "--noise_sigma=1"], ["noise_sigma=0"]),
        (["--noise_eta=0.3"], ["noise_eta=0.3", "inverse"]),
        (["--min_lr=1"], ["min_lr=1.0", "learning_rate", "--min_lr=None"]),
        (["--max_iters=10", "--warmup_iters=11"], ["warmup_iters=11", "max_iters"]),
        (["--eval_iters=200"], ["eval_iters", "eval_tokens"]),
        (["--eval_only=True"], ["eval_only", "python -m training.evaluate"]),
        (["--decay_lr=False"], ["decay_lr", "min_lr"]),
        (["--compile=maybe"], ["'maybe'", "auto, on, off"]),
        (["--device=gpu"], ["'gpu'", "cuda"]),
        (["--dtype=fp16"], ["'fp16'", "float16"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(argv, words):
    with pytest.raises(UserError) as error:
        load(argv)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("learning_rte = 1\n", ["bad.py", "learning_rte", "learning_rate"]),
        ("eval_iters = 1\nn_heads = 1\n", ["bad.py", "'eval_iters'", "'n_heads'"]),
        ("learning_rate = 10**400\n", ["bad.py", "learning_rate", "float"]),
        ("seed = 'one'\n", ["bad.py", "seed", "int", "'one'"]),
        ("batch_size = True\n", ["bad.py", "batch_size", "int", "True"]),
        ("from sys import exit\nexit(0)\n", ["bad.py, line 2", "SystemExit"]),
        ("batch_size = 1e3\n", ["bad.py", "batch_size", "int", "1000.0"]),
        ("seed = 1\nn_layer = = 2\n", ["bad.py, line 2", "SyntaxError"]),
        ("seed = 1\n\nn_layer = seed / 0\n", ["bad.py, line 3", "ZeroDivisionError"]),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path, source, words):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(UserError) as error:
        load([str(tmp_path / "bad.py")])
    for word in words:
        assert word in str(error.value)


def test_help_lists_every_option_with_its_default_comment_and_choices():
    lines = help_text().splitlines()
    for field in dataclasses.fields(Config):
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"  --{field.name}=")]
        assert len(lines[at].split("  ", 2)[2].strip()) > 10, f"{field.name} has no comment"
        choices = OPTIONS[field.name].choices
        assert all(choice in lines[at + 1] for choice in choices)
    with pytest.raises(SystemExit) as exit_:
        load(["--help"])
    assert exit_.value.code == 0


def test_every_option_that_is_a_number_has_limits_and_every_word_its_choices():
    for name, option in OPTIONS.items():
        if {int, float} & set(option.kinds):
            assert option.limits, name
        if option.kinds == (str,) and name not in ("dataset", "device"):
            assert option.choices, name


def test_the_choices_are_those_of_the_noise():
    assert set(OPTIONS["noise_schedule"].choices) == set(noise.SCHEDULES)
    assert set(OPTIONS["noise_distribution"].choices) == set(noise.DISTRIBUTIONS)
    assert set(OPTIONS["noise_scale"].choices) == set(noise.SCALES)


def test_cadence_logging_and_device_are_not_identity():
    here = settle({"seed": 2})
    looked_at = settle({"seed": 2, "eval_interval": 7, "log_interval": 3, "device": "cpu", "threads": 1})
    assert identity(here) == identity(looked_at)
    assert identity(here) == identity(settle({"seed": 2, "data_seed": 2, "min_lr": 1e-4}))
    assert identity(here) != identity(settle({"seed": 2, "data_seed": 3}))
    assert recorded(dataclasses.asdict(here)) == here


def test_a_record_is_read_by_todays_names_and_refused_where_it_has_an_option_that_is_no_more():
    here = dataclasses.asdict(settle({"noise_distribution": "laplace"}))
    there = {"noise_draw" if name == "noise_distribution" else name: value for name, value in here.items()}
    assert recorded(there) == recorded(here)
    assert recorded({"seed": 3}) == Config(seed=3), "an option that came later has its default"
    with pytest.raises(UserError, match="'momentum'"):
        recorded({**here, "momentum": 0.9})


@pytest.mark.parametrize("name", ["quickstart", "shakespeare_baseline", "shakespeare_noise"])
def test_the_config_files_load_alone_and_with_the_overlay(name):
    assert load([f"config/{name}.py"]).out_dir == f"out/{name}/seed1"
    small = load([f"config/{name}.py", "config/cpu.py"])
    assert (small.n_layer, small.n_embd, small.block_size, small.max_iters) == (4, 128, 64, 2000)


def test_the_two_shakespeare_configs_differ_in_the_noise_alone():
    baseline, noisy = (load([f"config/shakespeare_{name}.py"]) for name in ("baseline", "noise"))
    here, there = identity(baseline), identity(noisy)
    assert {name for name in here if here[name] != there[name]} == {"noise_sigma"}
    assert not baseline.noisy
    assert noisy.noisy


@pytest.mark.parametrize("overlay", [(), (str(ROOT / "config/cpu.py"),)])
def test_the_fine_tuning_configs_differ_in_noisytune_alone_and_fit_the_pretraining(overlay):
    names = ("pretrain_text8_small", "finetune_shakespeare", "finetune_shakespeare_noisytune")
    source, plain, noisy = (load([str(ROOT / f"config/{name}.py"), *overlay]) for name in names)
    here, there = identity(plain), identity(noisy)
    assert {option for option in here if here[option] != there[option]} == {"noisytune_lambda"}
    assert (plain.noisytune_lambda, noisy.noisytune_lambda) == (0.0, 0.15)
    assert plain.init_from == source.out_dir
    shape = ("n_layer", "n_head", "n_embd", "bias", "block_size")
    assert [getattr(plain, name) for name in shape] == [getattr(source, name) for name in shape]


def test_the_gpt2_config_has_gpt2s_shape():
    config = load([str(ROOT / "config/finetune_gpt2_shakespeare.py")])
    assert (config.n_layer, config.n_head, config.n_embd, config.bias) == (12, 12, 768, True)
    assert config.block_size <= 1024


@pytest.mark.parametrize("name", ["shakespeare", "enwik8", "text8"])
@pytest.mark.parametrize("overlay", [(), (str(ROOT / "config/cpu.py"),)])
def test_the_methods_config_is_the_baselines_but_for_its_noise(name, overlay):
    baseline, noisy = (
        identity(load([str(ROOT / f"config/{name}_{arm}.py"), *overlay])) for arm in ("baseline", "noise")
    )
    assert {option for option in baseline if baseline[option] != noisy[option]} == {"noise_sigma"}
    assert (noisy["noise_schedule"], noisy["noise_sigma"], noisy["noise_gamma"]) == ("exponential", 0.1, 0.99)
    if name != "shakespeare":
        options = ("learning_rate", "min_lr", "warmup_iters", "weight_decay", "beta1", "beta2", "grad_clip")
        assert [baseline[option] for option in options] == [5e-4, 5e-5, 200, 0.1, 0.9, 0.99, 1.0]
