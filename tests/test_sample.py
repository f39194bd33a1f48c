"""Text from a run folder: what it is a function of, its prompt, and one line for every mistake."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import checkpoint, weights, write_corpus

import sample
from config import ROOT, UserError
from data.build import code_points
from data.build import write_corpus as write
from data.corpus import decode, encode
from model import GPT


def texts_of(output):
    """The samples that sample.py printed."""
    lines = output.split("\n")
    heads = [number for number, line in enumerate(lines) if line.startswith("--- sample ")]
    assert lines[-2:] == ["---", ""]
    return ["\n".join(lines[a + 1 : b]) for a, b in zip(heads, [*heads[1:], len(lines) - 2])]


@pytest.fixture
def texts(run, capsys):
    """texts(option=value, ...) are the samples of a small run in the folder `run`, which is trained once."""
    folder = run(max_iters=5)
    capsys.readouterr()

    def do(**options):
        options = {"max_new_tokens": 40, "device": "cpu", **options}
        assert sample.main([str(folder), *(f"--{name}={value}" for name, value in options.items())]) == 0
        return texts_of(capsys.readouterr().out)

    return do


@pytest.fixture
def byte_run(run, tmp_path):
    """A run on the bytes of a text with two characters beyond ASCII."""
    data = ("é saw one ö.\n" * 200).encode()
    folder = tmp_path / "bytes"
    chunks = [torch.frombuffer(bytearray(data), dtype=torch.uint8).numpy()]
    write(folder, lambda: iter(chunks), {"from": "a test", "sha256": "-"}, unit="byte")
    return run("of bytes", dataset=folder, max_iters=5)


def test_a_sample_is_a_function_of_seed_and_number(texts):
    three = texts(num_samples=3, seed=4)
    assert texts(num_samples=3, seed=4) == three
    assert len(set(three)) == 3
    assert texts(num_samples=1, seed=4) == three[:1]
    assert texts(num_samples=3, seed=5)[0] not in three


def test_samples_of_several_batches_are_those_of_one(texts, monkeypatch):
    five = texts(num_samples=5)
    monkeypatch.setattr(sample, "TOGETHER", 2)
    assert texts(num_samples=5) == five


def test_the_sample_at_the_end_of_a_run_is_the_first_that_sample_draws(run, texts, capsys):
    run("again", max_iters=5, sample_tokens=40)
    assert capsys.readouterr().out.split("---")[2].strip("\n") == texts()[0].strip("\n")


def test_temperature_0_is_the_likeliest_continuation_of_the_prompt(run, texts):
    folder = run(max_iters=5)
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
    assert texts(prompt=text)[0].startswith(text)
    longer = text * 5  # than block_size
    assert texts(prompt=longer)[0].startswith(longer)
    assert len(texts(prompt=longer)[0]) == len(longer) + 40


def test_without_a_prompt_it_begins_after_a_new_line_or_the_first_symbol(run, texts, tmp_path, monkeypatch):
    starts = []
    generate = GPT.generate
    monkeypatch.setattr(GPT, "generate", lambda self, idx, *r: starts.append(idx) or generate(self, idx, *r))
    (text,) = texts()
    assert len(text) == 40
    other = run("other", dataset=write_corpus(tmp_path / "c", "\tb a\n" * 300), max_iters=5)
    sample.main([str(other), "--max_new_tokens=3", "--device=cpu"])
    third = run("third", dataset=write_corpus(tmp_path / "d", "abcb" * 300), max_iters=5)
    sample.main([str(third), "--max_new_tokens=3", "--device=cpu"])
    assert [start.tolist() for start in starts] == [[[0]], [[1]], [[0]]]  # \n; \t before \n; a


def test_bytes_are_prompted_in_utf8_and_printed_as_text(byte_run, capsys, tmp_path):
    capsys.readouterr()
    (tmp_path / "half.txt").write_bytes("saw é".encode()[:-1])
    for prompt, start in (("é saw", "é saw"), (f"FILE:{tmp_path / 'half.txt'}", "saw \ufffd")):
        sample.main([str(byte_run), f"--prompt={prompt}", "--max_new_tokens=1", "--device=cpu"])
        assert texts_of(capsys.readouterr().out)[0][:4] == start[:4]
    with pytest.raises(UserError, match=r"lacks 'à', 'z'; it has b'\\n \.aenosw\\xa9\\xb6\\xc3'"):
        sample.main([str(byte_run), "--prompt=é àz", "--device=cpu"])


def test_encoding_is_undone_by_decoding():
    meta = {"name": "m", "unit": "character", "vocabulary": list("\n abé")}
    assert decode(encode("b é\na", meta), meta) == "b é\na"
    assert encode("é\n", meta) == [4, 0]
    meta = {"name": "m", "unit": "byte", "vocabulary": sorted(set("\n abé".encode()))}
    assert decode(encode("b é\na", meta), meta) == "b é\na"
    assert encode("é\n", meta) == [5, 4, 0]
    assert encode("\udcc3", meta) == [5]


def test_a_long_vocabulary_is_cut_short():
    meta = {"name": "m", "unit": "character", "vocabulary": [chr(0x4E00 + n) for n in range(1000)]}
    with pytest.raises(UserError, match=r"lacks 'a'; it has .* and 744 more$") as error:
        encode("aa", meta)
    assert sum(character in str(error.value) for character in meta["vocabulary"]) == 256


def test_a_run_folder_is_enough_and_last_stands_in_for_best(run, tmp_path, capsys, corpus):
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    folder = run(dataset=data, learning_rate=2.0, grad_clip=0.0, noise_sigma=0.0, eval_interval=1)
    shutil.rmtree(data)
    capsys.readouterr()
    sample.main([str(folder), "--device=cpu"])
    best = capsys.readouterr()
    assert best.err == f"weights: {folder}/best.pt\n"
    (folder / "best.pt").unlink()
    sample.main([str(folder), "--device=cpu"])
    last = capsys.readouterr()
    assert last.err == f"weights: {folder}/last.pt, since there is no best.pt\n"
    assert last.out != best.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tmperature=1"], "--tmperature=1 is no option of sample.py; did you mean '--temperature'?"),
        (["--temperature=hot"], "--temperature: invalid float value: 'hot'"),
        (["--temperature=-1"], "--temperature=-1.0 is out of range: temperature is 0 or more"),
        (["--temperature=nan"], "--temperature=nan is out of range"),
        (["--temperature=inf"], "--temperature=inf is out of range"),
        (["--top_k=0"], "--top_k=0 is out of range: top_k is 1 or more"),
        (["--num_samples=0"], "num_samples is 1 or more"),
        (["--max_new_tokens=1.5"], "--max_new_tokens: invalid int value: '1.5'"),
        (["--seed=-1"], "seed is 0 or more"),
        (["--prompt=Ädå #"], "lacks 'Ä', 'å', '#'; it has '\\n .ABCDE"),
        (["--prompt="], "the prompt is empty"),
        (["--prompt=FILE:none.txt"], "--prompt=FILE:none.txt: no such file"),
        (["--device=gpu"], "device='gpu' is none of auto, cpu"),
        (["another"], "another is no option of sample.py"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(run, options, words):
    with pytest.raises(UserError) as error:
        sample.main([str(run(max_iters=5)), *options])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def harm(folder, how):
    """Do something to a run folder that sample.py should answer with one line."""
    state = checkpoint(folder, "best.pt")
    best = folder / "best.pt"
    if how == "cut":
        best.write_bytes(best.read_bytes()[:500])
    elif how == "empty":
        best.write_bytes(b"")
    elif how == "noise":
        best.write_bytes(code_points("no checkpoint").tobytes())
    elif how == "one name":
        best.write_bytes(best.read_bytes().replace(b"ln_f.weight", b"ln\xff\xff.weight"))
    elif how == "not finite":
        state["model"]["state"]["ln_f.weight"][3] = torch.nan
        torch.save(state, best)
    elif how == "no model":
        torch.save({"step": 1}, best)
    elif how == "a tensor gone":
        del state["model"]["state"]["wte.weight"]
        torch.save(state, best)
    elif how == "an unknown shape":
        state["model"]["config"]["heads"] = 2
        torch.save(state, best)
    elif how == "another vocabulary":
        about = json.loads((folder / "run.json").read_text())
        about["corpus"]["vocabulary"].pop()
        (folder / "run.json").write_text(json.dumps(about))
    elif how == "no weights":
        best.unlink()
        (folder / "last.pt").unlink()
    elif how == "no run.json":
        (folder / "run.json").unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        *((how, "best.pt is damaged") for how in ("cut", "empty", "noise", "one name")),
        *((how, "best.pt holds no model") for how in ("no model", "a tensor gone", "an unknown shape")),
        ("not finite", "best.pt holds weights that are not finite"),
        ("another vocabulary", "best.pt does not match the vocabulary in its run.json"),
        ("no weights", "neither best.pt nor last.pt"),
        ("no run.json", "is no run folder"),
    ],
)
def test_a_damaged_run_is_one_line(run, how, words):
    folder = run(max_iters=5)
    harm(folder, how)
    with pytest.raises(UserError) as error:
        sample.main([str(folder), "--device=cpu"])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_prints_utf8_whatever_the_terminal(byte_run):
    words = [sys.executable, "sample.py", str(byte_run), "--prompt=é", "--max_new_tokens=2", "--device=cpu"]
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert process.stdout.startswith("--- sample 1 of 1, seed 1 ---\né".encode())
    process = subprocess.run([*words, "--top_k=none"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1


def test_sampling_leaves_the_run_as_it_was(run, texts):
    folder = run(max_iters=5)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    texts(num_samples=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert weights(folder)
