"""The Hugging Face GPT-2 format: transformers and we agree in both directions; what does not fit
is one line."""

import hashlib
import json
import re
import shutil

import pytest
import safetensors.torch
import torch
from conftest import checkpoint, same_weights, write_corpus
from test_init_from import Crash, crash_after

import sample
import train
from config import UserError, load
from data.corpus import Corpus
from data.subword import GPT2_TOKENS
from model import GPT, GPTConfig
from training import evaluate, export, gpt2
from training.pretrained import read_source

SHAPE = dict(n_layer=2, n_head=2, n_embd=16)
CLOSE = 1e-4  # of logits, float32


@pytest.fixture(scope="session")
def transformers():
    return pytest.importorskip("transformers", reason="requirements-dev.txt has transformers")


def scaled(model, seed=1):
    """The model with matrices ten times as large, and with vectors that no initialization has."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def of_transformers(transformers, **knobs):
    torch.manual_seed(3)
    config = transformers.GPT2Config(**{"vocab_size": 29, "n_positions": 24, **SHAPE, **knobs})
    return scaled(transformers.GPT2LMHeadModel(config))


def write_model(folder, vocab_size=29, block_size=24, dtype=None):
    """A model of ours in the format, with biases; dtype: of its tensors in the file."""
    folder.mkdir()
    gpt2.write(folder, scaled(GPT.create(GPTConfig(vocab_size, block_size, **SHAPE, bias=True), 3)))
    if dtype:
        change(folder, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    return folder


def change(folder, how):
    """Write the weights of a folder anew, as `how` changes the dict of its tensors."""
    tensors = safetensors.torch.load_file(folder / gpt2.WEIGHTS)
    safetensors.torch.save_file(how(tensors) or tensors, folder / gpt2.WEIGHTS)


def change_config(folder, **said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **said}))


def agree(ours, theirs, tokens=9):
    """Assert the same logits over a context, and the same greedy tokens; prints the largest difference."""
    size, vocab_size = ours.config.block_size, ours.config.vocab_size
    idx = torch.randint(vocab_size, (3, size), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        mine, other = ours.eval()(idx)[0], theirs.eval()(idx).logits
    error = (mine - other).abs().max().item()
    print(f"\nlargest difference of logits {error:.1e}, of logits up to {other.abs().max():.1f}")
    assert error < CLOSE
    assert other.std() > 0.5, "logits this small would hide a mistake"
    start = idx[:1, :5]
    generators = [torch.Generator()]
    greedy = theirs.generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=tokens, do_sample=False
    )
    assert ours.generate(start, tokens, generators, temperature=0).tolist() == greedy.tolist()


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("how", ["whole", "bare", "sharded"])
def test_what_transformers_has_saved_is_the_same_model_here(transformers, tmp_path, how, activation):
    shape = dict(n_layer=3, n_head=4, n_embd=32)
    theirs = of_transformers(transformers, activation_function=activation, **shape)
    saved = theirs.transformer if how == "bare" else theirs
    saved.save_pretrained(tmp_path, max_shard_size="60KB" if how == "sharded" else "1GB")
    (first, *_) = files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 2) == (how == "sharded")
    names = safetensors.torch.load_file(first).keys()
    assert all(name.startswith("transformer.") for name in names) == (how != "bare")
    ours, about = gpt2.read(tmp_path)
    agree(ours, theirs)
    assert ours.config == GPTConfig(29, 24, **shape, bias=True)
    data = b"".join(path.read_bytes() for path in files)
    assert about == {
        "file": ", ".join(path.name for path in files),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


@pytest.fixture
def exported(run, tmp_path):
    """exported(key=value, ...) is (run folder, its export), of weights as `scaled` makes them."""

    def build(**knobs):
        source = run(max_iters=5, **knobs)
        state = checkpoint(source, "best.pt")
        model = scaled(GPT.from_weights(state["model"]))
        torch.save({**state, "model": model.weights()}, source / "best.pt")
        assert export.main([str(source), str(tmp_path / "exported")]) == 0
        return source, tmp_path / "exported"

    return build


@pytest.mark.parametrize("bias", [False, True])
def test_what_we_have_exported_is_the_same_model_in_transformers(transformers, exported, bias):
    source, folder = exported(bias=bias)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    agree(GPT.from_weights(checkpoint(source, "best.pt")["model"]), theirs)
    assert theirs.config.resid_pdrop == theirs.config.embd_pdrop == theirs.config.attn_pdrop == 0.1
    assert theirs.config.bos_token_id is theirs.config.eos_token_id is None
    biases = [value for name, value in theirs.named_parameters() if name.endswith("bias")]
    assert len(biases) == 13
    assert any(value.any() for value in biases) == bias


@pytest.mark.parametrize("unit", ["character", "byte", "token"])
def test_the_lines_of_the_model_card_run(transformers, exported, capsys, unit):
    _, folder = exported()
    meta = json.loads((folder / "corpus.json").read_text())
    if unit != "character":
        symbols = [ord(s) if unit == "byte" else s for s in meta["vocabulary"]]
        (folder / "corpus.json").write_text(json.dumps({**meta, "unit": unit, "vocabulary": symbols}))
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace('"".join(text)', export.joined({"unit": unit}))
    capsys.readouterr()
    torch.manual_seed(1)
    exec(code, {})
    text = capsys.readouterr().out
    assert (len(text), text[0]) == (17, "\n")
    assert set(text) <= set(meta["vocabulary"])


def test_the_model_card_says_what_the_model_is(exported):
    source, folder = exported(seed=4, learning_rate=2.0, grad_clip=0.0, eval_interval=1)
    card = (folder / "README.md").read_text()
    best, about = checkpoint(source, "best.pt"), json.loads((source / "run.json").read_text())
    assert best["iter"] < 5
    for words in (
        "# exported\n",
        "| corpus | small:",
        f"| parameters | {GPT.from_weights(best['model']).parameter_count():,} |",
        "2 layers, 2 heads, width 16, context 16; without biases",
        f"the best ones of the run, after {best['iter']} iterations of 128 tokens",
        f"{best['val_loss']:.4f} nats, ",
        "`noise_sigma=0.01`",
        "| seed | 4 |",
        f"| {about['versions']['revision'] or 'unknown'} |",
        f"python sample.py {folder}\n",
    ):
        assert words in card
    assert "threads=" not in card


def test_the_end_of_a_text_is_told_where_the_corpus_has_one(exported, run, tmp_path):
    _, folder = exported()
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] is None
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    about["corpus"]["vocabulary"][7], about["corpus"]["special"] = "<|endoftext|>", ["<|endoftext|>"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    export.main([str(tmp_path / "run"), str(folder)])
    config = json.loads((folder / "config.json").read_text())
    assert config["bos_token_id"] == config["eos_token_id"] == 7


@pytest.mark.parametrize("bias", [False, True])
def test_an_export_is_read_back_to_the_bit(exported, bias):
    source, folder = exported(bias=bias)
    state, again = checkpoint(source, "best.pt")["model"]["state"], gpt2.read(folder)[0].state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    assert all(not again[name].any() for name in again.keys() - state.keys())
    assert len(again.keys() - state.keys()) == (0 if bias else 13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read_as_float32(tmp_path, dtype):
    whole, _ = gpt2.read(write_model(tmp_path / "whole"))
    short, _ = gpt2.read(write_model(tmp_path / "short", dtype=dtype))
    for name, value in whole.state_dict().items():
        assert short.state_dict()[name].dtype == torch.float32
        assert torch.equal(short.state_dict()[name], value.to(dtype).float())


def test_masks_of_old_files_and_a_tied_head_are_no_weights(tmp_path):
    folder = write_model(tmp_path / "model")
    before = gpt2.read(folder)[0].state_dict()

    def old(tensors):
        mask = torch.ones(1, 1, 24, 24, dtype=torch.uint8).tril()
        tensors |= {f"transformer.h.{n}.attn.bias": mask.clone() for n in range(2)}
        tensors |= {f"transformer.h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(2)}
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()

    change(folder, old)
    after = gpt2.read(folder)[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if not key.endswith(name)}


def with_tensor(name, value):
    return lambda tensors: {**tensors, name: value}


def not_finite(tensors):
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 2] = torch.inf


def integers(tensors):
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].to(torch.int8)


def too_large(tensors):
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].double().fill_(1e300)


QKV = "transformer.h.0.attn.c_attn.weight"


@pytest.mark.parametrize(
    ("said", "tensors", "words"),
    [
        ({"model_type": "llama"}, None, "config.json: model_type='llama', and the GPT here has 'gpt2' alone"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, None, "architectures=['GPT2ForSequence"),
        ({"activation_function": "relu"}, None, "activation_function='relu', and the GPT here has 'gelu_new'"),
        ({"activation_function": "gelu"}, None, "activation_function='gelu'"),
        ({"n_inner": 63}, None, "n_inner=63, and the GPT here has 4 * n_embd = 64 alone"),
        ({"layer_norm_epsilon": 1e-6}, None, "layer_norm_epsilon=1e-06"),
        ({"scale_attn_weights": False}, None, "scale_attn_weights=False"),
        ({"scale_attn_by_inverse_layer_idx": True}, None, "scale_attn_by_inverse_layer_idx=True"),
        ({"reorder_and_upcast_attn": True}, None, "reorder_and_upcast_attn=True"),
        ({"add_cross_attention": True}, None, "add_cross_attention=True"),
        ({"tie_word_embeddings": False}, None, "tie_word_embeddings=False"),
        ({"n_head": 3}, None, "n_embd=16 is not a multiple of n_head=3"),
        ({"n_layer": "2"}, None, "n_layer='2' is no positive number"),
        ({"n_embd": 0}, None, "n_embd=0 is no positive number"),
        ({"n_layer": 3}, None, "lacks the tensor h.2.ln_1.weight"),
        ({"n_layer": 1}, None, "holds h.1.attn.c_attn.bias, h.1.attn.c_attn.weight, h.1.attn.c_proj.bias,"),
        ({"n_positions": 32}, None, "wpe.weight is (24, 16) torch.float32, where its config.json makes it (32"),
        ({}, without("mlp.c_fc.bias"), "lacks the tensor h.0.mlp.c_fc.bias"),
        ({}, with_tensor("score.weight", torch.ones(2)), "holds score.weight, which no GPT-2 language model"),
        ({}, with_tensor(QKV, torch.ones(48, 16)), "h.0.attn.c_attn.weight is (48, 16) torch.float32"),
        ({}, with_tensor("wte.weight", torch.ones(29, 16)), "holds wte.weight a second time"),
        ({}, with_tensor("lm_head.weight", torch.ones(29, 16)), "lm_head.weight is not wte.weight"),
        ({}, not_finite, "h.1.mlp.c_fc.weight is not finite"),
        ({}, too_large, "ln_f.bias is not finite"),
        ({}, integers, "ln_f.bias is (16,) torch.int8"),
    ],
)  # fmt: skip
def test_what_our_gpt_cannot_be_is_one_line(tmp_path, said, tensors, words):
    folder = write_model(tmp_path / "model")
    change_config(folder, **said)
    if tensors:
        change(folder, tensors)
    refused(folder, words)


def refused(folder, words):
    with pytest.raises(UserError) as error:
        gpt2.read(folder)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 5, 8, 100, 3000, -1])
def test_damaged_weights_are_one_line(tmp_path, size):
    folder = write_model(tmp_path / "model")
    data = (folder / gpt2.WEIGHTS).read_bytes()
    (folder / gpt2.WEIGHTS).write_bytes(data[:size])
    refused(folder, "model.safetensors is damaged or no safetensors file: restore it")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pickle", "holds its weights as a pickle, which is not read: save the model with safetensors"),
        ("none", "has no model.safetensors: restore it"),
        ("index", "model.safetensors.index.json names no files of weights"),
        ("index elsewhere", "model.safetensors.index.json names no files of weights"),
        ("shard", "lacks model-00001-of-00002.safetensors: restore it"),
        ("config", "config.json is missing, or describes no model"),
        ("list", "config.json is missing, or describes no model"),
        ("no json", "config.json is damaged"),
    ],
)
def test_a_folder_that_lacks_a_file_is_one_line(tmp_path, how, words):
    folder = write_model(tmp_path / "model")
    weights, index = folder / gpt2.WEIGHTS, folder / gpt2.INDEX
    if how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "none":
        weights.unlink()
    elif how.startswith("index"):
        name = "../model/elsewhere.safetensors" if "elsewhere" in how else None
        index.write_text(json.dumps({"weight_map": {"wte.weight": name} if name else {}}))
        weights.unlink()
    elif how == "shard":
        index.write_text(json.dumps({"weight_map": {"wte.weight": "model-00001-of-00002.safetensors"}}))
        weights.unlink()
    elif how == "config":
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text("[]" if how == "list" else "{")
    refused(folder, words)


# A run that starts from such a folder.


TOKENS = "".join(chr(97 + (n * n + n // 7) % 29) for n in range(4000))


@pytest.fixture
def token_corpus(tmp_path):
    """A corpus whose unit is the token, of 29 of them."""
    folder = write_corpus(tmp_path / "tokens", TOKENS)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["vocab_size"] == 29
    meta |= {"unit": "token", "pattern": ".", "special": []}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_the_tokens_of_gpt2_are_carried_over_by_index(token_corpus, command, tmp_path):
    folder = write_model(tmp_path / "model")
    config = load(command("new", init_from=folder, dataset=token_corpus, bias=True))
    corpus = Corpus(config.dataset)
    t = train.Training(config, corpus, train.Machine.choose(config), read_source(config, corpus.meta))
    theirs = gpt2.read(folder)[0].state_dict()
    for name, parameter in t.model.named_parameters():
        assert torch.equal(parameter, theirs[name][:16] if name == "wpe.weight" else theirs[name]), name
    assert t.start == {
        **{"run": str(folder), "file": "model.safetensors", "iter": None, "val_loss": None},
        "sha256": hashlib.sha256((folder / gpt2.WEIGHTS).read_bytes()).hexdigest(),
        "symbols": {"carried": 29, "fresh": 0, "left": 0},
        "positions": {"carried": 16, "fresh": 0},
    }


def test_a_run_trains_from_it_stops_and_goes_on(
    transformers, token_corpus, run, command, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "model"
    of_transformers(transformers).save_pretrained(folder)
    knobs = dict(init_from=folder, dataset=token_corpus, bias=True, max_iters=3, checkpoint_interval=1)
    knobs |= dict(warmup_iters=0, learning_rate=0.001, eval_interval=1)
    whole = run("whole", **knobs)
    assert f"weights from {folder}, model.safetensors: 29 symbols carried over, 0" in capsys.readouterr().out
    for steps in (0, 2):  # before the first checkpoint, and after it
        with monkeypatch.context() as patch:
            crash_after(patch, steps)
            with pytest.raises(Crash):
                train.main(command("part", **knobs))
        if steps:
            shutil.rmtree(folder)
    assert train.main(command("part", **knobs)) == 0
    assert same_weights(whole, tmp_path / "part")


def test_changed_weights_are_not_begun_from_again(token_corpus, command, tmp_path, monkeypatch):
    folder = write_model(tmp_path / "model")
    words = command("new", init_from=folder, dataset=token_corpus, bias=True)
    with monkeypatch.context() as patch:
        crash_after(patch, 0)
        with pytest.raises(Crash):
            train.main(words)
    change(folder, with_tensor("transformer.ln_f.bias", torch.ones(16)))
    with pytest.raises(UserError, match=r"began from other weights than .* SHA-256"):
        train.main(words)


def test_an_export_carries_its_symbols_over_by_symbol(exported, command, tmp_path):
    source, folder = exported()
    other = write_corpus(tmp_path / "other", "?" * 9 + "Ada saw one bird!" * 99)
    starts = []
    for init_from, bias in ((source, False), (folder, True)):
        config = load(command("new", init_from=init_from, dataset=other, bias=bias))
        corpus = Corpus(config.dataset)
        found = read_source(config, corpus.meta)
        starts.append(train.Training(config, corpus, train.Machine.choose(config), found))
    ours, theirs = (t.model.state_dict() for t in starts)
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    assert starts[1].start["symbols"] == starts[0].start["symbols"]
    assert starts[1].start["symbols"]["fresh"] == 2


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"n_layer": 3}, "another shape than n_layer=3: use --n_layer=2"),
        ({"bias": False}, "another shape than bias=False: use --bias=True"),
        ({"dataset": "{characters}"}, "has no vocabulary that fits characters: without a corpus.json its 29"),
        ({"init_from": "{other}"}, "has no vocabulary that fits tokens: without a corpus.json its 30 symbols"),
    ],
    ids=str,
)
def test_a_model_that_does_not_fit_is_one_line_before_any_work(token_corpus, command, tmp_path, knobs, words):
    folder, other = write_model(tmp_path / "model"), write_model(tmp_path / "other", vocab_size=30)
    characters = write_corpus(tmp_path / "characters", TOKENS)
    places = {"characters": characters, "other": other}
    knobs = {k: v.format(**places) if isinstance(v, str) else v for k, v in knobs.items()}
    with pytest.raises(UserError) as error:
        train.main(command("new", **{"init_from": folder, "dataset": token_corpus, "bias": True, **knobs}))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_tokens_as_many_as_gpt2s_have_to_be_its_own(tmp_path, command):
    folder = write_model(tmp_path / "model", vocab_size=50_257)
    config = load(command("new", init_from=folder, bias=True))
    tokens = [f"{rank}" for rank in range(50_257)]
    meta = {"name": "mine", "unit": "token", "vocab_size": len(tokens), "vocabulary": tokens}
    with pytest.raises(UserError, match="and those of mine are others: prepare it with GPT-2's vocabulary"):
        read_source(config, meta)
    for rank, token in GPT2_TOKENS.items():
        tokens[rank] = token
    assert read_source(config, meta).meta is meta
    tokens[262] = " a"
    with pytest.raises(UserError, match="are others"):
        read_source(config, meta)


# export.py, and what reads an export as if it were a run.


def test_an_export_is_sampled_and_evaluated_as_its_run_is(exported, capsys, monkeypatch, corpus, tmp_path):
    source, folder = exported(bias=True)
    (source / "last.pt").unlink()
    monkeypatch.setattr(evaluate, "dataset_of", lambda *_: (str(corpus), None))
    said = []
    for place in (source, folder):
        capsys.readouterr()
        sample.main([str(place), "--prompt=Ada", "--max_new_tokens=30", "--device=cpu"])
        evaluate.main([str(place)])
        said.append(capsys.readouterr())
    assert said[0].out.replace("best weights", "weights") == said[1].out
    assert said[1].err == f"weights: {folder}/model.safetensors\n"
    monkeypatch.undo()
    with pytest.raises(UserError, match="dataset='small' is neither a folder under data/"):
        evaluate.main([str(folder)])


def test_an_export_without_its_vocabulary_is_one_line(exported):
    _, folder = exported()
    meta = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**meta, "vocabulary": meta["vocabulary"][:-1]}))
    with pytest.raises(UserError, match=r"does not match the vocabulary in its corpus\.json"):
        sample.main([str(folder), "--device=cpu"])
    (folder / "corpus.json").unlink()
    with pytest.raises(UserError, match=r"nor the corpus\.json of an exported model"):
        sample.main([str(folder), "--device=cpu"])


def test_an_export_takes_an_exports_place_and_no_other(run, tmp_path, capsys):
    source, folder = run(max_iters=5), tmp_path / "exported"
    folder.mkdir()
    export.main([str(source), str(folder)])
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert first.keys() == {"README.md", "config.json", "corpus.json", "model.safetensors"}
    (source / "best.pt").unlink()
    capsys.readouterr()
    export.main([str(source), str(folder)])
    assert f"{folder}: the weights of {source}/last.pt, since there is no best.pt;" in capsys.readouterr().out
    assert "the last ones of the run, after 5 iterations" in (folder / "README.md").read_text()
    assert f"{evaluated(source, 5):.4f} nats, " in (folder / "README.md").read_text()
    second = gpt2.read(folder)[0].state_dict()
    assert all(torch.equal(second[name], value) for name, value in checkpoint(source)["model"]["state"].items())


def test_an_interrupted_export_is_no_model_and_is_done_again(exported, monkeypatch):
    source, folder = exported()
    with monkeypatch.context() as patch:
        patch.setattr(export, "end_of_text", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.main([str(source), str(folder)])
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        sample.main([str(folder), "--device=cpu"])
    assert export.main([str(source), str(folder)]) == 0
    assert gpt2.read(folder)


def evaluated(folder, iteration):
    """The val loss that a run has logged at an iteration."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    (loss,) = [e["val_loss"] for e in events if e["kind"] == "eval" and e["iter"] == iteration]
    return loss


def test_a_mistake_of_an_export_is_one_line(run, tmp_path):
    source = run(max_iters=5)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for words, said in (
        ([], "which run, and into which folder?"),
        ([str(source)], "which run, and into which folder?"),
        ([str(source), "exported", "--force"], "--force is no option of export.py"),
        (["nowhere", str(tmp_path / "new")], "nowhere is no run folder"),
        ([str(source), str(tmp_path / "file")], "file is a file: name a new folder"),
        ([str(source), str(tmp_path / "full")], "full holds something other than an export"),
        ([str(source), str(source)], "run holds something other than an export"),
    ):
        with pytest.raises(UserError) as error:
            export.main(words)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
