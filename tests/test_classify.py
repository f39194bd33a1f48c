"""Encoders fine-tuned to classify texts: the laws, what bad input gets, and the way to records and figures."""

import copy
import json
import os
import random
import re
import shutil
import signal
import subprocess
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import checkpoint, same_weights, weights
from made_up import META, OTHER_DATA, fake_run
from test_laws import timeless

import sample
import sweep
from analysis import collect, effects, fields, records, statistics, tables
from bench import trainer
from config import ROOT, UserError, load
from config._classify import Classify
from config.study import read_study
from data.files import read_json
from data.texts import read_task
from training import classify, encoder, encoder_run, evaluate, export, machine, sharpness
from training.machine import Machine
from training.run_files import read_log, read_result
from training.run_folder import RunFolder

transformers = pytest.importorskip("transformers")
pytest.importorskip("sklearn")

WORDS = ["good", "bad", "film", "plot", "dull", "bright", "we", "saw", "it", "twice", "and", "never", "again"]
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
POSITIONS = 12


def save_tokenizer(folder):
    """Of whole words, as BERT's puts marks around them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate([*MARKS, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """The folder of a BERT of random weights, 2 layers x 16."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    shape = transformers.BertConfig(vocab_size=40, max_position_embeddings=POSITIONS, **size)
    torch.manual_seed(1)
    transformers.BertModel(shape).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A file of 80 labelled texts of 1 to 9 words."""
    draw, path = random.Random(1), tmp_path_factory.mktemp("texts") / "films.tsv"
    rows = [("good", "bad")[n % 2] + "\t" + " ".join(draw.choices(WORDS, k=1 + n % 9)) for n in range(80)]
    path.write_text("\n".join(["label\ttext", *rows]))
    return path


@pytest.fixture
def words(bert, table, tmp_path):
    """words(name, key=value, ...) is the command line of a small run in the folder `name`."""

    def build(name="run", **options):
        small = {
            **{"task": table, "model": bert, "out_dir": tmp_path / name, "batch_size": 16, "max_iters": 12},
            **{"device": "cpu", "dtype": "float32", "threads": 1, "learning_rate": 0.01, "warmup_iters": 3},
            **{"noise_sigma": 0.5, "noise_scale": "global", "noisytune_lambda": 0.3},
            **{"eval_interval": 4, "log_interval": 1, "checkpoint_interval": 5},
        }
        return [f"--{name}={value}" for name, value in {**small, **options}.items()]

    return build


@pytest.fixture
def run(words, tmp_path):
    """run(name, key=value, ...) trains and returns the run's folder."""

    def do(name="run", status=0, **options):
        assert classify.main(words(name, **options)) == status
        return tmp_path / name

    return do


@pytest.fixture
def new_run(words):
    """new_run(key=value, ...) is an EncoderRun that has done no step yet."""

    def build(**options):
        config = load(words(**options), kind=Classify)
        task = read_task(config.task, config.val_file)
        return encoder_run.EncoderRun(config, task, Machine.choose(config), encoder.read_encoder(config, task))

    return build


@pytest.fixture
def interrupted(monkeypatch, words):
    """interrupted(step, act, ...) trains until that many steps are done, where `act` is called."""

    def stop(at, act, **options):
        step = classify.train_step

        def stopping(run):
            step(run)
            if run.step == at:
                act()

        with monkeypatch.context() as patch:
            patch.setattr(classify, "train_step", stopping)
            return classify.main(words(**options))

    return stop


# The laws.


def test_without_dropout_a_run_is_that_of_transformers_trainer(new_run, tmp_path):
    """On batches of all the texts, so that their order does not matter: losses, gradient norms and weights."""
    pytest.importorskip("accelerate")
    quiet = {"noise_sigma": 0.0, "noisytune_lambda": 0.0, "warmup_iters": 0}
    run = new_run(**quiet, batch_size=100, max_iters=8, learning_rate=3e-3, weight_decay=0.1)
    twin = copy.deepcopy(run.model)
    for model in (run.model, twin):
        model.eval()
        model.train = lambda mode=True, model=model: model
    for _ in range(8):
        classify.train_step(run)
    trained, run.model = run.model, twin
    theirs = trainer.trainer_of(run, tmp_path, logging_strategy="steps", logging_steps=1)
    theirs.train()
    logged = [[row["loss"], row["grad_norm"]] for row in theirs.state.log_history if "loss" in row]
    ours = run.history[:, :2].tolist()
    np.testing.assert_allclose(ours, logged, rtol=0, atol=2e-4)
    assert ours[-1][0] < ours[0][0] - 0.003
    for mine, theirs in zip(trained.parameters(), twin.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_what_this_cpu_emulates_is_said_as_it_is(words, monkeypatch, capsys):
    """operators.matmul is our GPT's alone."""
    config = load(words(dtype="bfloat16"), kind=Classify)
    for module in (machine, encoder_run):
        monkeypatch.setattr(module, "has_instructions", lambda dtype: dtype == torch.float32)
    chosen = encoder_run.EncoderMachine.choose(config)
    assert "emulates bfloat16: --dtype=float32" in capsys.readouterr().out
    assert (chosen.record()["through_float32"], "float32" in str(chosen)) == (False, False)
    assert Machine.choose(config).through_float32


def test_several_processes_are_refused(words, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="in one process: start it without torchrun"):
        classify.main(words())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_command_gives_the_same_bits(run, dtype):
    one = run("one", dtype=dtype)
    torch.manual_seed(999)
    again = run("again", dtype=dtype)
    assert same_weights(one, again)
    assert timeless(one) == timeless(again)


def test_seeds_and_noise_make_the_difference(run, new_run):
    plain = {"noise_sigma": 0, "noisytune_lambda": 0}
    kinds = [{}, {"seed": 2}, {"data_seed": 2}, plain, {**plain, "noisytune_lambda": 0.3}]
    folders = [run(f"run{number}", **options) for number, options in enumerate(kinds)]
    assert not any(same_weights(a, b) for i, a in enumerate(folders) for b in folders[:i])
    one, other, reordered = (new_run(**k).model.state_dict() for k in kinds[:3])
    assert all(torch.equal(one[name], reordered[name]) for name in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_looking_changes_nothing(run):
    often = run("often", eval_interval=1, checkpoint_interval=1)
    rarely = run("rarely", eval_interval=50, log_interval=7, checkpoint_interval=50, eval_train_texts=3)
    assert same_weights(often, rarely)


def test_a_stopped_run_resumes_to_the_same_bits(run, interrupted, tmp_path):
    whole = run("whole")
    assert interrupted(6, lambda: os.kill(os.getpid(), signal.SIGTERM)) == 128 + signal.SIGTERM
    assert read_result(tmp_path / "run") is None
    torch.manual_seed(999)
    assert same_weights(run(), whole)
    assert timeless(tmp_path / "run") == timeless(whole)


def test_a_killed_run_resumes_to_the_same_bits(run, interrupted, tmp_path):
    """From its last checkpoint, or from its start where it has none."""
    for at in (3, 9):
        with pytest.raises(ZeroDivisionError):
            interrupted(at, lambda: 1 / 0)
    assert checkpoint(tmp_path / "run")["step"] in (5, 8)
    assert same_weights(run(), whole := run("whole"))
    assert timeless(tmp_path / "run") == timeless(whole)


def test_a_longer_run_is_another_one(run):
    """Its learning rate falls over the whole of it."""
    run()
    with pytest.raises(UserError, match=r"max_iters \(12 there, 13 here\)"):
        run(max_iters=13)


def test_a_run_of_the_other_program_is_another_one(run, tmp_path):
    run("seed1")
    with RunFolder(tmp_path / "seed1") as folder, pytest.raises(UserError) as error:
        folder.check_config(load([]))
    assert re.search(r"holds a run of another config: task \(.* there, None here\);", str(error.value))
    fake_run(tmp_path / "seed2", 2)
    with pytest.raises(UserError, match="differ in task"):
        records.read([tmp_path])


def other_weights(folder):
    model = transformers.BertModel.from_pretrained(folder)
    torch.nn.init.ones_(model.encoder.layer[0].output.dense.bias)
    model.save_pretrained(folder)


def other_dropout(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**read_json(path), "hidden_dropout_prob": 0.3}))


def other_tokens(folder):
    path = folder / "tokenizer.json"
    swapped = path.read_text().replace('"good"', '"x"').replace('"bad"', '"good"').replace('"x"', '"bad"')
    path.write_text(swapped)


@pytest.mark.parametrize("change", [other_weights, other_dropout, other_tokens])
def test_another_model_under_a_run_is_refused(run, interrupted, bert, tmp_path, change):
    shutil.copytree(bert, mine := tmp_path / "mine")
    interrupted(6, lambda: os.kill(os.getpid(), signal.SIGTERM), model=mine)
    change(mine)
    with pytest.raises(UserError, match="SHA-256"):
        run(model=mine)


def test_a_run_that_has_ended_needs_no_model(run, bert, tmp_path, capsys):
    shutil.copytree(bert, mine := tmp_path / "mine")
    run(model=mine)
    shutil.rmtree(mine)
    run(model=mine)
    assert "finished already" in capsys.readouterr().out


def test_trainers_model_is_evaluated_in_float32_as_ours_is(words, monkeypatch):
    pytest.importorskip("accelerate")
    config = load(words(dtype="bfloat16", max_iters=2, warmup_iters=0), kind=Classify)
    inputs = {"input_ids": torch.tensor([[2, 5, 3]]), "attention_mask": torch.ones(1, 3, dtype=int)}
    seen = lambda run: {"val_score": seen_in(run.model.bert.encoder.layer[0].output.dense, run.model, inputs)}  # noqa: E731
    monkeypatch.setattr(trainer, "evaluation", seen)
    assert trainer.train(config) == torch.float32


def seen_in(layer, model, inputs):
    """The dtype that a layer gives in a forward pass."""
    found = []
    hook = layer.register_forward_hook(lambda _, __, output: found.append(output.dtype))
    model(**inputs)
    hook.remove()
    return found[0]


def test_scores_beside_those_of_trainer(monkeypatch, capsys):
    """The study's own scores, on seeds of its arm's; Trainer's are made up."""
    study = records.read([ROOT / "results" / "noisytune_glue"]).of(arm="rte_lambda0")
    ours = records.losses(study.runs, "final_val_score")
    monkeypatch.setattr(trainer, "train", lambda config: 0.5 + config.seed / 100)
    assert trainer.main(["rte", "--seeds=1,4"]) == 0
    first, second, _, difference = capsys.readouterr().out.splitlines()
    assert (first, second) == ("rte, seed 1: Trainer 0.5100", "rte, seed 4: Trainer 0.5400")
    assert difference.startswith(f"ours minus Trainer's: {ours.mean() - 0.525:+.4f} (")
    with pytest.raises(UserError, match="invalid choice"):
        trainer.main(["colla"])


# The start, and how far from it.


def test_the_weights_are_the_folders_and_the_head_is_the_seeds(new_run, bert):
    run, pretrained = new_run(noisytune_lambda=0), transformers.BertModel.from_pretrained(bert)
    for name, parameter in pretrained.named_parameters():
        assert torch.equal(parameter, run.model.get_parameter(f"bert.{name}"))
    assert run.encoder.head == {"classifier.weight", "classifier.bias"} == {*run.encoder.record["fresh"]}
    assert not run.model.classifier.bias.any()
    assert 0.005 < run.model.classifier.weight.std() < 0.05


def test_a_classifier_of_other_labels_is_drawn_anew(new_run, bert, tmp_path):
    """Whatever it was trained for: labels in another order, or one number."""
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        bert, num_labels=2, id2label={0: "good", 1: "bad"}, problem_type="regression"
    )
    torch.nn.init.ones_(theirs.classifier.bias)
    shutil.copytree(bert, mine := tmp_path / "mine")
    theirs.save_pretrained(mine)
    runs = [new_run(model=mine, seed=seed, noisytune_lambda=0) for seed in (1, 1, 2)]
    one, again, other = (run.model.classifier.weight.detach() for run in runs)
    assert {*runs[0].encoder.record["fresh"]} == {"classifier.weight", "classifier.bias"}
    assert not runs[0].model.classifier.bias.any()
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, theirs.classifier.weight)
    classify.train_step(runs[0])
    assert runs[0].history[0, 0] < 1


def test_xlnet_is_an_encoder(run, bert, tmp_path):
    """One of the models of NoisyTune's paper, though not trained on masked words."""
    size = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, "vocab_size": 40}
    transformers.XLNetModel(transformers.XLNetConfig(**size)).save_pretrained(tmp_path / "xlnet")
    save_tokenizer(tmp_path / "xlnet")
    last = [e for e in read_log(run(model=tmp_path / "xlnet"))[0] if e["kind"] == "distance"][-1]
    assert {"all", "embeddings", "attention", "mlp", "norms", "layer0", "layer1", "head"} <= last.keys()


@pytest.mark.parametrize(
    ("params", "moved"),
    [
        ("encoder", {"all", "embeddings", "attention", "mlp", "pooler", "layer0", "layer1"}),
        ("all", {"all", "embeddings", "attention", "mlp", "pooler", "layer0", "layer1", "head"}),
        ("attention", {"all", "attention", "layer0", "layer1"}),
        ("head", {"head"}),
    ],
)
def test_noisytune_perturbs_the_parameters_that_are_chosen(new_run, params, moved):
    run = new_run(noisytune_params=params, noisytune_lambda=0.3)
    distances = run.distances()
    assert {part for part, distance in distances["distance"].items() if distance} == moved
    assert not any(distances["update"].values())
    if params == "head":  # the mean of |U(-1/2, 1/2)| is 1/4, of 32 draws
        origin = run.origins["distance"]["classifier.weight"]
        moved = (run.model.classifier.weight - origin).abs().mean().item()
        assert moved == pytest.approx(0.3 * origin.std().item() / 4, rel=0.4)


def test_gradient_noise_goes_to_the_parameters_that_are_chosen(new_run):
    """noise_params chooses them, and noisytune_params does not."""
    names = [new_run(noise_params=one, noisytune_params="embeddings").noise.names for one in ("head", "all")]
    assert {name.partition(".")[0] for name in names[0]} == {"classifier"}
    assert {*names[0]} < {*names[1]}


def test_the_distance_is_the_mean_change_of_the_elements(run, bert):
    folder = run(noise_sigma=0)
    last, events = weights(folder), read_log(folder)[0]
    pretrained = transformers.BertModel.from_pretrained(bert).state_dict()
    layer = [name for name in pretrained if name.startswith("encoder.layer.1.")]
    moved = torch.cat([(last[f"bert.{name}"] - pretrained[name]).flatten() for name in layer])
    (found,) = [e for e in events if e["kind"] == "distance" and e["iter"] == 12]
    assert found["layer1"] == pytest.approx(moved.abs().mean().item(), rel=1e-4)
    updates = [event["all"] for event in events if event["kind"] == "update"]
    assert updates[0] == 0 < updates[1] < updates[-1]
    assert read_result(folder)["final_update"] == updates[-1] < read_result(folder)["final_distance"]


def test_gradient_noise_has_the_norm_that_is_asked_for(run):
    events = [e for e in read_log(run(noise_schedule="constant"))[0] if e["kind"] == "train"]
    for event in events:
        assert event["noise_norm"] == pytest.approx(0.5 * event["clipped_norm"], rel=0.1)


# Batches, rates and scores.


def test_each_pass_takes_every_text_once_in_batches_of_like_length():
    lengths = np.random.default_rng(1).integers(3, 128, size=1001)
    first, second, again = (encoder_run.batches_by_length(lengths, 16, seed) for seed in (1, 2, 1))
    for batches in (first, second):
        assert sorted(np.concatenate(batches)) == list(range(1001))
    assert [list(batch) for batch in first] == [list(batch) for batch in again] != [list(b) for b in second]
    assert max(np.ptp(lengths[batch]) for batch in first) < 20


def test_the_learning_rate_is_linear(words):
    config = load(words(max_iters=10, warmup_iters=3, learning_rate=1), kind=Classify)
    rates = [classify.learning_rate(step, config) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])


def test_scores_are_the_metrics_own():
    found = encoder_run.scores([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], 2)
    assert found == pytest.approx({"accuracy": 3 / 5, "f1": 2 / 3, "matthews": 1 / 6})
    assert encoder_run.scores([0, 1, 2, 2], [0, 1, 1, 2], 3)["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_a_score_is_of_the_metric_that_is_asked_for(run):
    result = read_result(run(metric="f1"))
    assert result["final_val_score"] == result["final_val_f1"] != result["final_val_accuracy"]
    assert read_result(run("other"))["final_val_score"] == read_result(run("other"))["final_val_accuracy"]


def test_the_evaluation_is_that_of_transformers(new_run):
    run = new_run()
    run.model.train()
    found, (row,) = encoder_run.evaluation(run), run.encoder.rows["val"][3:4]
    assert run.model.training
    inputs = {key: torch.tensor([value]) for key, value in row.items()}
    with torch.no_grad():
        alone = run.model.eval()(**inputs, labels=run.labels["val"][3:4]).loss
    assert encoder_run.predict(run, "val", np.array([3]))[0] == pytest.approx(alone.item(), abs=1e-6)
    each = [encoder_run.predict(run, "val", np.array([number]))[0] for number in range(len(run.task.val))]
    assert found["val_loss"] == pytest.approx(np.mean(each), abs=1e-5)


def test_a_long_text_is_cut_and_counted_once(run, tmp_path, bert, capsys):
    long = tmp_path / "long.jsonl"
    rows = [{"label": n % 2, "text": "good " * (50 if n in (0, 19) else 3)} for n in range(20)]
    long.write_text("\n".join(map(json.dumps, rows)))
    run(task=long, max_length=500)
    assert capsys.readouterr().out.count(f"2 of 20 are cut at {POSITIONS} tokens") == 1


def spoil(folder, *names, **changes):
    """A copy of a model's folder without some files, or with changes in one."""
    copy = shutil.copytree(folder, folder.parent / f"{names[0]}{len(list(folder.parent.iterdir()))}")
    for name in names:
        if changes:
            (copy / name).write_text(json.dumps({**read_json(copy / name), **changes}))
        else:
            (copy / name).unlink()
    return copy


def without_attention(folder):
    """The folder of an FNet, which mixes tokens by a Fourier transform."""
    fnet = folder.parent / "fnet"
    size = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 40}
    transformers.FNetModel(transformers.FNetConfig(**size)).save_pretrained(fnet)
    save_tokenizer(fnet)
    return fnet


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "colla"}, "did you mean 'cola'"),
        ({"task": "nowhere.tsv"}, "no such file"),
        ({"task": "rte", "val_file": "b.tsv"}, "leave it out"),
        ({"model": lambda bert: bert / "nowhere"}, "docs/glue.md"),
        ({"model": lambda bert: spoil(bert, "model.safetensors")}, "model.safetensors"),
        ({"model": lambda bert: spoil(bert, "config.json")}, "config.json|model_type"),
        ({"model": lambda bert: spoil(bert, "config.json", model_type="gpt2")}, "gpt2, which is no encoder"),
        ({"model": lambda bert: spoil(bert, "config.json", is_decoder=True)}, "no encoder"),
        ({"model": lambda bert: spoil(bert, "config.json", num_hidden_layers=3)}, "16 are missing"),
        ({"model": lambda bert: spoil(bert, "config.json", vocab_size=9)}, "missing or of another shape"),
        (
            {"model": lambda bert: spoil(bert, "tokenizer.json", "tokenizer_config.json")},
            "tokenizer",
        ),
        (
            {"model": lambda bert: spoil(bert, "tokenizer_config.json", pad_token=None)},
            "without a padding token",
        ),
        (
            {"model": lambda bert: spoil(bert, "config.json", hidden_size="x")},
            "no model that transformers knows",
        ),
        ({"model": without_attention, "noise_params": "attention"}, "noise_params='attention'.*but embeddings"),
        ({"model": without_attention, "noisytune_params": "attention"}, "noisytune_params='attention'"),
        ({"warmup_iters": 13}, "warmup_iters=13"),
        ({"noise_sigma": 1.0, "noise_steps": 9}, "noise_steps=9"),
        ({"epochs": 3}, "--max_iters"),
        ({"n_layer": 3}, "no option is called 'n_layer'"),
        ({"decay_lr": False}, "no option is called 'decay_lr'[^:]*--help"),  # --min_lr is the other program's
    ],
)
def test_a_mistake_in_the_command_is_one_line(words, bert, tmp_path, monkeypatch, options, said):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = {name: value(bert) if callable(value) else value for name, value in options.items()}
    with pytest.raises(UserError, match=said) as error:
        classify.main(words(**options))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_limit_that_leaves_no_token_of_a_pair_is_refused(words, tmp_path):
    rows = [{"label": float(n % 2), "text": "good film", "text2": "dull plot"} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"4 tokens a text.*none beside 3 marks: 5 at least"):
        classify.main(words(task=tmp_path / "pairs.jsonl", max_length=4))
    assert classify.main(words(task=tmp_path / "pairs.jsonl", max_length=5)) == 0


@pytest.mark.parametrize("package", ["transformers", "sklearn"])
def test_a_missing_package_is_asked_for(words, monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.delitem(__import__("sys").modules, "sklearn.metrics", raising=False)
    with pytest.raises(UserError, match=r"pip install -r requirements-glue\.txt"):
        classify.main(words())


@pytest.mark.parametrize("command", [evaluate.main, export.main, sharpness.main, sample.main])
def test_commands_for_gpts_refuse_such_a_run_in_one_line(run, command, tmp_path):
    extra = [str(tmp_path / "exported")] if command is export.main else []
    with pytest.raises(UserError, match=r"training\.classify"):
        command([str(run()), *extra])


def test_weights_go_where_they_are_not_to_be_kept(run):
    folder = run(keep_weights=False)
    assert not list(folder.glob("*.pt"))
    assert read_result(folder)["status"] == "finished"
    (folder / "last.pt").touch()  # as a kill just after the result leaves it
    assert run(keep_weights=False) == folder  # has ended already
    assert not list(folder.glob("*.pt"))


def test_a_run_that_diverges_says_so(run):
    folder = run(status=3, learning_rate=1e30)
    assert read_result(folder)["status"] == "diverged"


# From runs to records, verdicts and figures.


def scored(folder, seed, score, meta=META, **options):
    """A made-up run with a score in its result."""
    fake_run(folder, seed, meta=meta, **options)
    result = {**read_json(folder / "result.json"), "final_val_score": score}
    (folder / "result.json").write_text(json.dumps(result))


def test_each_task_has_its_panel_of_rates(tmp_path):
    for name, meta in (("a", META), ("b", OTHER_DATA)):
        for number, rate in enumerate((1e-4, 2e-4, 4e-4)):
            folder = tmp_path / f"{name}_lr{rate:g}" / "seed1"
            scored(folder, 1, number, meta, learning_rate=rate, min_lr=rate / 10)
        scored(tmp_path / f"{name}_noise" / "seed1", 1, 9, meta, learning_rate=2e-4, min_lr=2e-5)
    figure = effects.learning_rates(records.read([tmp_path]))
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert list(axes.get_lines()[-2].get_xdata()) == [1e-4, 2e-4, 4e-4]
        assert list(axes.get_lines()[-2].get_ydata()) == [0, 1, 2], "and of no other kind of arm"
        assert list(axes.get_lines()[-1].get_xdata()) == [4e-4]  # the highest score


def test_what_is_of_gpts_alone_passes_by_runs_of_encoders():
    rates = records.read([ROOT / "results" / "noisytune_glue_rates"])
    rates = rates.of(arm=[arm for arm in rates.runs.arm if arm.startswith("rte_")])
    rates.runs["arm"] = rates.runs.arm.str.removeprefix("rte_")
    assert effects.learning_rates(rates).axes[0].get_legend_handles_labels()[1] == ["adamw"]
    noise = fields.Fields(records.read([ROOT / "results" / "noisytune_glue"]))
    with pytest.raises(UserError, match="no share but of absolute noise"):
        noise.share("noisytune_glue", "cola_gradient_noise")


@pytest.mark.parametrize(("loss", "verdict"), [("final_val_score", "better"), ("final_val_loss", "worse")])
def test_more_is_better_of_a_score_and_worse_of_a_loss(tmp_path, loss, verdict):
    for seed in (1, 2, 3):
        for arm, sigma in (("baseline", 0.0), ("noise", 0.1)):
            folder = fake_run(tmp_path / arm / f"seed{seed}", seed, noise_sigma=sigma)
            result = {**read_json(folder / "result.json"), loss: 0.5 + sigma + 0.001 * seed * sigma}
            (folder / "result.json").write_text(json.dumps(result))
    row = statistics.compare(records.read([tmp_path]), "", "", loss).loc["noise"]
    assert row["mean"] > 0
    assert row.verdict == verdict


STUDY = """'''A small study.'''
program = "classify"
base = "tiny.py"
common = dict(dtype="float32", noise_sigma=0.0)
arms = {f"lambda{lam:g}": dict(noisytune_lambda=lam) for lam in (0.0, 0.2, 0.4)}
arms["gradient_noise"] = dict(noisytune_lambda=0.0, noise_sigma=0.5)
baseline = "lambda0"
seeds = (1, 2)
"""


@pytest.fixture
def study(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dict(word[2:].split("=", 1) for word in words(max_iters=4) if "out_dir" not in word)
    lines = [
        f"{name} = {value if value.replace('.', '', 1).isdigit() else repr(value)}"
        for name, value in options.items()
    ]
    (tmp_path / "tiny.py").write_text("\n".join(lines))
    (tmp_path / "small.py").write_text(STUDY.replace("tiny.py", str(tmp_path / "tiny.py")))
    return read_study("small.py")


def test_a_study_goes_all_the_way(study, tmp_path):
    study.folder.mkdir(parents=True)
    (study.folder / "study.json").write_text(json.dumps({**study.record(), "seeds": [1, 2]}))
    for run in study.runs:
        assert classify.main(run.words) == 0
    collect.main(["out", "--to=kept"])
    for folder in ("out", "kept"):
        found = records.read([folder])
        assert len(found.runs) == 8
        assert list(found.runs.unit.unique()) == ["text"]
        (figure,) = [effects.lambdas(found)]
        upper, lower = figure.axes
        assert list(upper.containers[0].lines[0].get_xdata()) == [0.0, 0.2, 0.4]
        assert "noise in the gradients" in upper.get_legend_handles_labels()[1]
        assert list(lower.containers[0].lines[0].get_xdata()) == [0.0, 0.2, 0.4]
        assert np.all(np.diff(lower.containers[0].lines[0].get_ydata()) > 0)
        made = tables.all_tables(found)
        assert "val score, final" in made["table1"][0].cells
        assert len(made["comparisons"][0].cells) == 3


def test_sweep_takes_the_options_of_the_program_and_names_it(study):
    _, planned = sweep.read_command(["small.py", "--val_file=dev.tsv"])
    assert {run.config.val_file for run in planned.runs} == {"dev.tsv"}
    with pytest.raises(UserError, match=r"not a study: python -m training\.classify tiny\.py;"):
        sweep.read_command(["tiny.py"])


def test_sweep_starts_the_program_of_the_study(study, monkeypatch, tmp_path):
    asked = {}
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda words, **how: asked.update(how, words=words) or Mock())
        sweep.start(study.runs[0], jobs=1)
    (tmp_path / "config.py").write_text("")  # of the user's own, in the working folder
    words = [*asked["words"][:4], "--help"]
    said = subprocess.run(words, env=asked["env"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "python -m training.classify" in said.stdout
    assert "--noisytune_params" in said.stdout


def test_the_studies_of_glue_pair_their_arms():
    study = read_study(ROOT / "config" / "study" / "noisytune_glue.py")
    assert len(study.runs) == 4 * 4 * 5
    for arm, reference in study.versus.items():
        assert arm.split("_")[0] == reference.split("_")[0]
    rates = read_study(ROOT / "config" / "study" / "noisytune_glue_rates.py")
    assert not {*rates.seeds} & {*study.seeds}
