"""The Hugging Face GPT-2 format: transformers and we agree both ways; what does not fit is one line."""

import hashlib
import json
import random
import re
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import TEXT, checkpoint, same_weights, write_corpus
from test_init_from import crash_after, record_of
from test_subword import rank_file

import sample
import train
from config import UserError, load
from data import build, files, subword
from data.corpus import Corpus, decode, encode
from data.files import read_json, write_json
from data.meta import vocabulary_sha256
from data.subword import GPT2_TOKENS
from model import GPT, GPTConfig
from training import evaluate, export, gpt2
from training.pretrained import read_source
from training.run_files import corpus_meta

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


def of_transformers(transformers, **options):
    torch.manual_seed(3)
    config = transformers.GPT2Config(**{"vocab_size": 29, "n_positions": 24, **SHAPE, **options})
    return scaled(transformers.GPT2LMHeadModel(config))


def write_model(folder, vocab_size=29, block_size=24):
    """A model of ours in the format, with biases."""
    folder.mkdir()
    model = scaled(GPT.create(GPTConfig(vocab_size, block_size, **SHAPE, bias=True), 3))
    gpt2.write(folder, model.config, gpt2.weights_of(model))
    return folder


def change(folder, how):
    """Write the weights of a folder anew, as `how` changes the dict of its tensors."""
    tensors = safetensors.torch.load_file(folder / gpt2.WEIGHTS)
    safetensors.torch.save_file(how(tensors), folder / gpt2.WEIGHTS)


def change_json(path, **values):
    write_json(path, {**read_json(path), **values})


def recast(path, **values):
    """Change what a corpus says of its vocabulary."""
    meta = {**json.loads(path.read_text()), **values}
    change_json(path, **values, vocabulary_sha256=vocabulary_sha256(meta))


def agree(ours, theirs):
    """Assert the same logits over a context, and the same greedy tokens."""
    shape, generator = (3, ours.config.block_size), torch.Generator().manual_seed(5)
    idx = torch.randint(ours.config.vocab_size, shape, generator=generator)
    with torch.no_grad():
        mine, other = ours.eval()(idx)[0], theirs.eval()(idx).logits
    assert (mine - other).abs().max() < CLOSE
    assert other.std() > 0.5, "logits this small would hide a mistake"
    start = idx[:1, :5]
    mask = torch.ones_like(start)
    greedy = theirs.generate(start, attention_mask=mask, max_new_tokens=9, do_sample=False)
    assert ours.generate(start, 9, [torch.Generator()], temperature=0).tolist() == greedy.tolist()


@pytest.mark.parametrize(
    ("how", "activation"),
    [("whole", "gelu_new"), ("bare", "gelu_new"), ("sharded", "gelu"), ("whole", "gelu_pytorch_tanh")],
)
def test_what_transformers_has_saved_is_the_same_model_here(transformers, tmp_path, how, activation):
    shape = dict(n_layer=3, n_head=4, n_embd=32)
    theirs = of_transformers(transformers, activation_function=activation, **shape)
    saved = theirs.transformer if how == "bare" else theirs
    saved.save_pretrained(tmp_path, max_shard_size="60KB" if how == "sharded" else "1GB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 2) == (how == "sharded")
    names = safetensors.torch.load_file(files[0]).keys()
    assert all(name.startswith("transformer.") for name in names) == (how != "bare")
    ours, metadata = gpt2.read(tmp_path)
    agree(ours, theirs)
    ours_is = "gelu" if activation == "gelu" else "gelu_tanh"
    assert ours.config == GPTConfig(29, 24, **shape, bias=True, activation=ours_is)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    assert metadata == {"file": ", ".join(path.name for path in files), "sha256": digest}


@pytest.fixture
def exported(run, tmp_path):
    """exported(key=value, ...) is (run folder, its export), of weights as `scaled` makes them."""

    def build(**options):
        source = run(max_iters=5, **options)
        state = checkpoint(source, "best.pt")
        model = scaled(GPT.from_weights(state["model"]))
        torch.save({**state, "model": model.weights()}, source / "best.pt")
        assert export.main([str(source), str(tmp_path / "exported")]) == 0
        return source, tmp_path / "exported"

    return build


@pytest.mark.parametrize(("bias", "activation"), [(False, "gelu"), (True, "gelu_tanh")])
def test_what_we_have_exported_is_the_same_model_in_transformers_and_here(
    transformers, exported, bias, activation
):
    source, folder = exported(bias=bias, activation=activation)
    model = GPT.from_weights(checkpoint(source, "best.pt")["model"])
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    agree(model, theirs)
    assert theirs.config.resid_pdrop == theirs.config.embd_pdrop == theirs.config.attn_pdrop == 0.1
    assert theirs.config.bos_token_id is theirs.config.eos_token_id is None
    state, again = model.state_dict(), gpt2.read(folder)[0].state_dict()
    assert all(torch.equal(again.pop(name), value) for name, value in state.items())
    assert len(again) == (0 if bias else 13)
    assert not any(value.any() for value in again.values())


def test_an_export_is_evaluated_on_what_it_was_trained_on(exported):
    source, folder = exported(train_tokens=200, eval_tokens=100)
    for place in (source, folder):
        assert evaluate.dataset_of(place, corpus_meta(place))[1] == 200
    assert "over 96 characters" in (folder / "README.md").read_text(), "six windows of 16"


@pytest.mark.parametrize("unit", ["character", "byte", "token"])
def test_the_model_card_says_what_it_is_and_its_lines_run(exported, transformers, capsys, unit):
    source, folder = exported()
    meta = json.loads((source / "run.json").read_text())["corpus"] | {"unit": unit}
    if unit == "byte":
        meta["vocabulary"] = list(map(ord, meta["vocabulary"]))
    if unit == "token":
        meta |= {"special": ["<|endoftext|>"], "pattern": "."}
        meta["vocabulary"][-1:] = meta["special"]
    last = len(meta["vocabulary"]) - 1
    del meta["vocabulary_sha256"]
    change_json(source / "run.json", corpus=meta)
    export.main([str(source), str(folder)])
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == (
        last if unit == "token" else None
    )
    card, best = (folder / "README.md").read_text(), checkpoint(source, "best.pt")
    facts = (f"after {best['iter']} iterations of 128 tokens", "`noise_sigma=0.01`", "| seed | 1 |")
    assert all(fact in card for fact in (*facts, str(folder)))
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    capsys.readouterr()
    torch.manual_seed(1)
    exec(code, {})
    text = capsys.readouterr().out
    assert text[0] == "\n"
    assert len(text.replace("<|endoftext|>", "7")) <= 17


ODD = "Ada saw\n\n\none  ship,\t naïve café — 日本 🙂 \r\n e\u0301 it's 12's\u3000<|endoftext|>\n"


@pytest.fixture
def exported_of(run, tmp_path):
    """exported_of(unit) is the export of a run on a text of such symbols, all of ODD's among them."""

    def make(unit):
        text = (ODD + TEXT) * 3
        if unit == "token":
            vocabulary = subword.read_vocabulary(rank_file(tmp_path / "ranks"))
            subword.write_corpus(tmp_path / "c", lambda: iter([text]), vocabulary, {"from": "-", "sha256": "-"})
        else:
            data = build.code_points(text) if unit == "character" else np.frombuffer(text.encode(), np.uint8)
            build.write_corpus(tmp_path / "c", lambda: iter([data]), {"from": "-", "sha256": "-"}, unit)
        folder = run(dataset=tmp_path / "c", max_iters=5, block_size=64)
        assert export.main([str(folder), str(tmp_path / "exported")]) == 0
        return tmp_path / "exported"

    return make


@pytest.mark.parametrize("unit", ["character", "byte", "token"])
def test_an_export_has_its_tokenizer_and_is_a_pipeline(transformers, exported_of, unit):
    folder = exported_of(unit)
    meta, draw = corpus_meta(folder), random.Random(2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [ODD, "\n", " \n  \n", "", *("".join(draw.choices(ODD, k=30)) for _ in range(100))]
    for text in texts:
        tokens = tokenizer(text).input_ids
        assert tokens == encode(text, meta)
        assert tokenizer.decode(tokens) == text == decode(tokens, meta)
    some = draw.choices(range(meta["vocab_size"]), k=200)
    assert tokenizer.decode(some) == decode(some, meta), "bytes that are no UTF-8"
    assert len(tokenizer) == meta["vocab_size"]
    if unit == "token":
        assert tokenizer.eos_token_id == meta["vocab_size"] - 1
    else:
        with pytest.raises(Exception, match="vocabulary"):
            tokenizer("Ada \u03bb")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    limits = (tokenizer.model_max_length, model.config.n_positions, model.generation_config.max_length)
    assert limits == (64, 64, 64)
    generate = transformers.pipeline("text-generation", str(folder))
    (made,) = generate("Ada saw")
    assert made["generated_text"].startswith("Ada saw")
    assert unit == "token" or len(made["generated_text"]) > 30
    with pytest.raises(ValueError, match="64"):
        generate("Ada saw " * 40)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_masks_of_old_files_and_a_tied_head_are_read(tmp_path, dtype):
    folder = write_model(tmp_path / "model")
    before = gpt2.read(folder)[0].state_dict()

    def old(tensors):
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        mask = torch.ones(1, 1, 24, 24, dtype=torch.uint8).tril()
        tensors |= {f"transformer.h.{n}.attn.bias": mask.clone() for n in range(2)}
        tensors |= {f"transformer.h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(2)}
        return tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}

    change(folder, old)
    for name, value in gpt2.read(folder)[0].state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name].to(dtype).float())


FC, INDEX = "h.1.mlp.c_fc.weight", "model.safetensors.index.json"


def config(**values):
    return lambda folder: change_json(folder / "config.json", **values)


def tensor(name, value):
    return lambda folder: change(folder, lambda before: before | {name: value})


def instead(file, content="", of="model.safetensors"):
    """A file in place of another one."""
    return lambda folder: ((folder / of).unlink(), (folder / file).write_text(content))


HUGE = 10**9
BAD = [  # (what is done to a folder, what the line names)
    *((config(**{name: "other"}), f"{name}='other'") for name in gpt2.FIXED),
    *((config(**{k: v}), f"{k}={v!r}") for k, v in (("n_inner", 63), ("n_head", 3), ("n_layer", "2"))),
    (config(n_layer=3), "h.2.ln_1.weight"),
    (config(n_layer=1), "h.1.attn.c_attn.bias"),
    *((config(**{name: HUGE}), "config.json") for name in ("n_layer", "vocab_size", "n_positions")),
    (config(n_embd=HUGE), "parameters"),
    (config(n_layer=True), "n_layer=True"),
    *(
        (tensor(f"transformer.{FC}", value), FC)
        for value in (
            *(torch.ones(64, 16), torch.full((16, 64), torch.inf), torch.ones(16, 64, dtype=torch.int8)),
            torch.full((16, 64), 1e300, dtype=torch.float64),
        )
    ),
    *((tensor(name, torch.ones(29, 16)), name) for name in ("wte.weight", "lm_head.weight")),
    (instead("model.safetensors", "cut"), "model.safetensors"),
    (instead("pytorch_model.bin"), "pickle"),
    (instead("other"), "model.safetensors"),
    (instead(INDEX, '{"weight_map": {}}'), INDEX),
    (instead(INDEX, '{"weight_map": {"wte.weight": "../model/some.safetensors"}}'), INDEX),
    (instead(INDEX, '{"weight_map": {"wte.weight": "one.safetensors"}}'), "one.safetensors"),
    *((instead("config.json", text, of="config.json"), "config.json") for text in ("[]", "{")),
    (instead("other", of="config.json"), "config.json"),
]


@pytest.mark.parametrize(("harm", "named"), BAD)
def test_what_is_damaged_or_what_our_gpt_cannot_be_is_one_line(tmp_path, harm, named):
    folder = write_model(tmp_path / "model")
    harm(folder)
    with pytest.raises(UserError, match=rf"^[^\n]*{folder}[^\n]*{re.escape(named)}[^\n]*$"):
        gpt2.read(folder)


def flipped(path, count):
    """The bytes of a file with one bit of it flipped, `count` times over: the first ones, and at random."""
    data, draw = path.read_bytes(), random.Random(1)
    for number in range(count):
        place, bit = (number if number < 16 else draw.randrange(len(data))), 1 << draw.randrange(8)
        yield data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def test_no_flipped_bit_in_what_was_downloaded_is_read(tmp_path):
    folder = write_model(tmp_path / "model")
    path = folder / gpt2.WEIGHTS
    note = folder / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{'0' * 40}\n{gpt2.read(folder)[1]['sha256']}\n1700000000.5\n")
    gpt2.read(folder)
    for data in flipped(path, 100):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"^[^\n]*$"):
            gpt2.read(folder)


def test_a_large_file_is_announced(tmp_path, monkeypatch, capsys):
    folder = write_model(tmp_path / "model")
    for least, said in ((10**9, ""), (1000, "model.safetensors")):
        monkeypatch.setattr(files, "LARGE", least)
        gpt2.read(folder)
        assert (error := capsys.readouterr().err).count("\n") == bool(said)
        assert said in error


# A run that starts from such a folder.

TOKENS = "".join(chr(97 + (n * n + n // 7) % 29) for n in range(4000))


@pytest.fixture
def token_corpus(tmp_path):
    """A corpus whose unit is the token, of 29 of them."""
    folder = write_corpus(tmp_path / "tokens", TOKENS)
    recast(folder / "meta.json", unit="token", pattern=".", special=[])
    return folder


def test_a_run_starts_from_it_by_index_stops_and_goes_on(token_corpus, run, command, tmp_path, monkeypatch):
    folder = write_model(tmp_path / "model")
    options = dict(init_from=folder, dataset=token_corpus, bias=True, max_iters=3, checkpoint_interval=1)
    options |= dict(warmup_iters=0, learning_rate=0.001, eval_interval=1)
    whole, words = run("whole", **options), command("part", **options)
    theirs = gpt2.read(folder)[0].state_dict()
    for name, value in checkpoint(whole, "start.pt").items():
        assert torch.equal(value, theirs[name][:16] if name == "wpe.weight" else theirs[name]), name
    assert record_of(whole) == {
        **{"run": str(folder), "file": "model.safetensors", "iter": None, "val_loss": None},
        "sha256": hashlib.sha256((folder / gpt2.WEIGHTS).read_bytes()).hexdigest(),
        "symbols": {"carried": 29, "fresh": 0, "left": 0},
        "positions": {"carried": 16, "fresh": 0},
    }
    crash_after(monkeypatch, 2, words)
    shutil.rmtree(folder)
    assert train.main(words) == 0
    assert same_weights(whole, tmp_path / "part")


def test_an_export_has_its_own_vocabulary_with_it(exported, command, tmp_path):
    source, folder = exported(bias=True)
    meta = Corpus(str(write_corpus(tmp_path / "other", "?" * 9 + "Ada saw one bird!" * 99))).meta
    found = [read_source(load(command("new", init_from=place, bias=True)), meta) for place in (source, folder)]
    assert found[1].meta["vocabulary"] == found[0].meta["vocabulary"] != meta["vocabulary"]
    pairs = zip(found[0].model.parameters(), found[1].model.parameters())
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("how", ["bias", "characters", "another number"])
def test_a_model_that_does_not_fit_is_one_line_before_any_work(token_corpus, command, tmp_path, how):
    folder = write_model(tmp_path / "model", vocab_size=30 if how == "another number" else 29)
    if how == "characters":
        recast(token_corpus / "meta.json", unit="character")
    named = "--bias=True" if how == "bias" else "corpus.json"
    with pytest.raises(UserError, match=rf"^init_from[^\n]*{named}[^\n]*$"):
        train.main(command("new", init_from=folder, dataset=token_corpus, bias=how != "bias"))
    assert not (tmp_path / "new").exists()


def test_tokens_as_many_as_gpt2s_have_to_be_its_own(tmp_path, command):
    folder = write_model(tmp_path / "model", vocab_size=50_257)
    config = load(command("new", init_from=folder, bias=True))
    tokens = [f"{rank}" for rank in range(50_257)]
    meta = {"name": "mine", "unit": "token", "vocab_size": len(tokens), "vocabulary": tokens}
    with pytest.raises(UserError, match="mine"):
        read_source(config, meta)
    for rank, token in GPT2_TOKENS.items():
        tokens[rank] = token
    assert read_source(config, meta).meta is meta


# What reads an export as if it were a run.


def test_an_export_is_sampled_and_evaluated_as_its_run_is(exported, capsys, monkeypatch, corpus):
    source, folder = exported(bias=True)
    (source / "last.pt").unlink()
    monkeypatch.setattr(evaluate, "dataset_of", lambda *_: (str(corpus), None))
    said = []
    for place in (source, folder):
        capsys.readouterr()
        sample.main([str(place), "--prompt=Ada", "--max_new_tokens=30", "--device=cpu"])
        evaluate.main([str(place)])
        said.append(capsys.readouterr().out)
    assert said[0].replace("best weights", "weights") == said[1]
    monkeypatch.undo()
    with pytest.raises(UserError, match="dataset='small'"):  # the corpus of that name is not under data/
        evaluate.main([str(folder)])
    change_json(folder / "corpus.json", vocabulary=["a"])
    for _ in range(2):
        with pytest.raises(UserError, match=r"corpus\.json"):
            sample.main([str(folder), "--device=cpu"])
        (folder / "corpus.json").unlink(missing_ok=True)


def test_no_flipped_bit_in_an_export_is_read(exported, tmp_path):
    _, folder = exported()
    meta = corpus_meta(folder)
    for data in flipped(folder / gpt2.WEIGHTS, 100):
        (folder / gpt2.WEIGHTS).write_bytes(data)
        with pytest.raises(UserError, match=r"^[^\n]*$"):
            evaluate.exported_model(folder, meta)


def test_an_export_replaces_an_export_and_one_that_broke_off_is_no_model(exported, monkeypatch, capsys):
    source, folder = exported()
    names = {path.name for path in folder.iterdir()}
    configs = {"config.json", "generation_config.json", "tokenizer_config.json"}
    assert names == configs | {"README.md", "corpus.json", "model.safetensors", "tokenizer.json"}
    with monkeypatch.context() as patch:
        patch.setattr(export, "end_of_text", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.main([str(source), str(folder)])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        sample.main([str(folder), "--device=cpu"])
    (source / "best.pt").unlink()
    capsys.readouterr()
    assert export.main([str(source), str(folder)]) == 0
    assert "last.pt" in capsys.readouterr().out
    assert "the last ones of the run, after 5 iterations" in (folder / "README.md").read_text()
    again, state = gpt2.read(folder)[0].state_dict(), checkpoint(source)["model"]["state"]
    assert all(torch.equal(again[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("words", "named"),
    [("", "folder"), (" new --force", "--force"), (" {}/log.jsonl", "log.jsonl"), (" {}", "run")],
)
def test_a_mistake_of_an_export_is_one_line(run, words, named):
    source = run(max_iters=5)
    before = sorted(source.iterdir())
    with pytest.raises(UserError, match=rf"^[^\n]*{named}[^\n]*$"):
        export.main(f"{source}{words}".format(source).split())
    assert sorted(source.iterdir()) == before


def test_another_programs_corpus_json_makes_no_export(run, tmp_path):
    for name in ("corpus.json", "config.json", gpt2.WEIGHTS):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        (tmp_path / "theirs" / name).write_text('{"documents": 3}')
    with pytest.raises(UserError, match="something other"):
        export.main([str(run(max_iters=5)), str(tmp_path / "theirs")])
    assert all(path.read_text() == '{"documents": 3}' for path in (tmp_path / "theirs").iterdir())
