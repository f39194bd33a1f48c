"""The corpus of subwords: prepared from a small vocabulary made here, trained on, sampled, told in bits.

The vocabulary has the bytes in an order that is not theirs, as GPT-2's has, so that a rank is not a byte.
"""

import base64
import collections
import hashlib
import itertools
import json
import math
import random
import re

import numpy as np
import pytest
import requests
import tiktoken
import torch
from conftest import TEXT, checkpoint, tokens_of, weights, write_corpus
from tiktoken_ext.openai_public import r50k_pat_str

import plot
import sample
from analysis import collect, tables
from analysis.arms import read_settings
from config import UserError
from data import subword
from data.corpus import Corpus, decode, encode, symbol_indices
from data.files import read_json, write_json
from data.shakespeare_bpe import prepare
from model import GPT
from training import evaluate

# Its first 90 % end within " riverbank", which is one token of VOCABULARY.
TALE = TEXT[:4000] + " Möwe\n" + " naïve café, 日本 🙂 it's <|endoftext|>\n" * 3 + " riverbank" * 49
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"  # the pattern, as `re` has it


def pieces(text):
    """A text as its pieces, each a list of single bytes."""
    return [[bytes([byte]) for byte in piece.encode()] for piece in re.findall(PIECES, text)]


def learned(text, merges):
    """The tokens of a byte-level BPE, by rank: the bytes, then the commonest pair again and again."""
    tokens, words = [bytes([(7 * n + 33) % 256]) for n in range(256)], pieces(text)
    for _ in range(merges):
        pairs = collections.Counter(pair for word in words for pair in itertools.pairwise(word))
        tokens.append(b"".join(max(pairs, key=lambda pair: (pairs[pair], pair))))
        words = [merged(word, {tokens[-1]: 0}) for word in words]
    return tokens


def merged(word, ranks):
    """A list of bytes, those neighbours joined that make a token: the lowest rank first, then the leftmost."""
    while True:
        joined = enumerate(a + b for a, b in itertools.pairwise(word))
        found = [(ranks[pair], place) for place, pair in joined if pair in ranks]
        if not found:
            return word
        _, place = min(found)
        word = [*word[:place], word[place] + word[place + 1], *word[place + 2 :]]


VOCABULARY = learned(TALE, 80)
RANKS = {token: rank for rank, token in enumerate(VOCABULARY)}


def tokens_by_hand(text):
    """What encoding should give."""
    return [RANKS[token] for word in pieces(text) for token in merged(word, RANKS)]


def rank_file(path, tokens=VOCABULARY):
    path.write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(tokens)))
    return path


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """prepared(text, tokens, *options) is the folder `bpe`, prepared as if that text were tinyshakespeare."""

    def do(text=TALE, tokens=VOCABULARY, *options):
        (tmp_path / "text.txt").write_text(text, encoding="utf-8")
        monkeypatch.setattr(prepare, "SHA256", hashlib.sha256(text.encode()).hexdigest())
        words = [f"--source={tmp_path / 'text.txt'}", *options]
        if tokens:
            words.append(f"--vocabulary={rank_file(tmp_path / 'tokens.tiktoken', tokens)}")
        prepare.main(words, tmp_path / "bpe")
        return tmp_path / "bpe"

    return do


@pytest.fixture
def subword_run(prepared, run):
    """subword_run(name, key=value, ...) is a finished run on it."""
    folder = prepared()
    return lambda name="run", **knobs: run(name, dataset=folder, **knobs)


def test_a_text_is_cut_by_characters_and_each_part_encoded(prepared, capsys):
    folder, cut = prepared(), int(len(TALE) * 0.9)
    parts = {"train": TALE[:cut], "val": TALE[cut:]}
    wanted = {split: tokens_by_hand(part) for split, part in parts.items()}
    assert tokens_by_hand(TALE) != wanted["train"] + wanted["val"], "the cut is within a token"
    for split, tokens in wanted.items():
        assert tokens_of(folder, split).tolist() == tokens
    meta = read_json(folder / "meta.json")
    assert list(meta) == (
        ["format", "name", "unit", "vocab_size", "vocabulary", "pattern", "special", "splits", "source"]
    )
    assert (meta["unit"], meta["vocab_size"], meta["special"]) == ("token", 337, ["<|endoftext|>"])
    assert [symbol.encode("latin-1") for symbol in meta["vocabulary"]] == [*VOCABULARY, b"<|endoftext|>"]
    assert meta["splits"] == {
        split: {
            "tokens": len(tokens),
            "characters": len(parts[split]),
            "sha256": hashlib.sha256(np.array(tokens, "<u2").tobytes()).hexdigest(),
        }
        for split, tokens in wanted.items()
    }
    assert meta["source"] == {
        "from": "text.txt",
        "sha256": hashlib.sha256(TALE.encode()).hexdigest(),
        "vocabulary": {
            "from": "tokens.tiktoken",
            "sha256": hashlib.sha256((folder.parent / "tokens.tiktoken").read_bytes()).hexdigest(),
        },
    }
    counts = f"337 symbols; train {len(wanted['train']):,}, val {len(wanted['val']):,} tokens"
    assert counts in capsys.readouterr().out


def test_decoding_gives_the_text_back(prepared):
    data = Corpus(str(prepared()))
    train, val = (decode(tokens.tolist(), data.meta) for tokens in data.tokens.values())
    assert train + val == TALE
    for text in ("ROMEO:\nnaïve — 日本語 🙂, 12's", "<|endoftext|>", "\n", " \t "):
        assert decode(encode(text, data.meta), data.meta) == text
        assert 336 not in encode(text, data.meta), "a special token is no text"
    plain = {**data.meta, "vocabulary": [*data.meta["vocabulary"][:-1], "end"], "special": ["end"]}
    assert 336 not in encode("end", plain)
    assert encode("Ada saw one", data.meta) == tokens_by_hand("Ada saw one")
    assert len(encode("Ada saw one", data.meta)) < 11
    assert decode([336], data.meta) == "<|endoftext|>"
    assert decode(encode("語", data.meta)[:1], data.meta) == "\ufffd"
    assert decode(encode("a\udce9", data.meta), data.meta) == "a\ufffd", "a byte of a prompt that was no UTF-8"


def test_a_text_is_cut_as_tiktoken_cuts_it_for_gpt2():
    pairs = [bytes(pair) for pair in itertools.product(b"1 \n\t.!'b", repeat=2)]
    ranks = {token: rank for rank, token in enumerate(VOCABULARY[:256] + pairs)}
    ours, theirs = (
        tiktoken.Encoding("one", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        for pattern in (subword.PATTERN, r50k_pat_str)
    )
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices("abé'sltredvm \n\t 1٣日.!\u00a0\r", k=20))
        assert ours.encode_ordinary(text) == theirs.encode_ordinary(text), text


def test_gpt2s_vocabulary_is_taken_from_tiktoken(prepared, monkeypatch):
    special = {"<|endoftext|>": len(RANKS)}
    gpt2 = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=RANKS, special_tokens=special)
    meta = read_json(prepared() / "meta.json")
    monkeypatch.setattr(tiktoken, "get_encoding", {"gpt2": gpt2}.__getitem__)
    again = read_json(prepared(TALE, None, "--force") / "meta.json")
    assert again["source"]["vocabulary"].pop("from") == "gpt2 of tiktoken"
    assert meta["source"]["vocabulary"].pop("from") == "tokens.tiktoken"
    assert again == meta


@pytest.mark.parametrize(
    "error",
    [requests.ConnectionError("no"), requests.Timeout(), ValueError("Hash mismatch"), PermissionError()],
)
def test_a_vocabulary_that_cannot_be_had_is_one_line(prepared, monkeypatch, tmp_path, error):
    def fail(_):
        raise error

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(UserError) as said:
        prepared(TALE, None)
    for words in (type(error).__name__, "TIKTOKEN_CACHE_DIR", "prepare.py --vocabulary FILE"):
        assert words in str(said.value)
    assert "\n" not in str(said.value)
    assert not (tmp_path / "bpe").exists()


LINES = [base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(VOCABULARY)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([b"\xff\xfe\x00\x01"], "line 1: .* is not the base64 of a token and its rank"),
        ([*LINES, b"a b c\n"], "line 337: b'a b c' is not the base64"),
        ([*LINES, b"!YWJj 336\n"], "line 337: b'!YWJj 336' is not"),
        ([*LINES, b"YWJj x\n"], "line 337: .* is not"),
        ([*LINES, b"YWJj\n"], "line 337: .* is not"),
        ([*LINES, LINES[0]], "line 337: b'!' is there twice"),
        ([*LINES, b"enp6 337\n"], "its 337 ranks are not 0, 1, 2"),
        ([*LINES, b"enp6 335\n"], "its 337 ranks are not 0, 1, 2"),
        ([*LINES, b"enp6 -1\n"], "its 337 ranks are not 0, 1, 2"),
        (LINES[:255], r"1 of the 256 single bytes are no tokens, b'\\x1a' the first"),
        ([], "256 of the 256 single bytes"),
        ([base64.b64encode(b"%d" % n) + b" %d\n" % n for n in range(65_536)], "65,535 tokens"),
        (None, "no such file"),
    ],
)
def test_a_rank_file_that_will_not_do_is_one_line(tmp_path, content, words):
    path = tmp_path / "ranks"
    if content is not None:
        path.write_bytes(b"".join(content))
    with pytest.raises(UserError, match=words) as error:
        prepare.main([f"--vocabulary={path}"], tmp_path / "bpe")
    assert str(error.value).startswith(f"--vocabulary={path}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bpe").exists()


def test_the_largest_vocabulary_fills_a_uint16(prepared):
    most = VOCABULARY + [b"\xff%d" % n for n in range(65_535 - len(VOCABULARY))]
    data = Corpus(str(prepared(TALE, most)))
    assert data.meta["vocab_size"] == 65_536
    assert decode(data.tokens["train"].tolist(), data.meta) == TALE[: int(len(TALE) * 0.9)]


def test_another_vocabulary_wants_force(prepared, capsys):
    prepared()
    prepared()
    assert "is prepared already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"holds tokens of another vocabulary, tokens\.tiktoken: --force"):
        prepared(TALE, VOCABULARY[:280])
    assert read_json(prepared(TALE, VOCABULARY[:280], "--force") / "meta.json")["vocab_size"] == 281


def test_bits_a_character_are_those_of_the_whole_split():
    """A mean of 3 nats over each of 30 tokens is 90 nats, over 100 characters 0.9, and in bits 0.9 / ln 2."""
    meta = {"unit": "token", "splits": {"val": {"tokens": 30, "characters": 100}, "train": {"tokens": 5}}}
    assert evaluate.bits(3.0, meta, "val") == pytest.approx(1.2984255368000671, rel=1e-15)
    assert evaluate.with_bits(3.0, meta, "val") == "3.0000 nats a token, 1.2984 bits a character"
    for unit in ("character", "byte"):
        meta = {"unit": unit, "splits": {"val": {"tokens": 30}}}
        assert evaluate.bits(0.7, meta, "val") == 0.7 / math.log(2)
        assert evaluate.with_bits(math.log(2), meta, "val") == f"0.6931 nats, 1.0000 bits a {unit}"


def test_losses_of_a_run_are_told_in_bits_a_character(subword_run, capsys):
    folder = subword_run(eval_tokens=64, input_noise=0.2)
    said = capsys.readouterr().out
    data, result = Corpus(str(folder.parent / "bpe")), read_json(folder / "result.json")
    tokens, model = data.tokens["val"].long(), GPT.from_weights(checkpoint(folder)["model"]).eval()
    nats = [
        -model(tokens[None, place - place % 16 : place + 1])[0][0, -1].log_softmax(0)[tokens[place + 1]].item()
        for place in range(len(tokens) - 1)
    ]
    part = data.meta["splits"]["val"]
    wanted = np.mean(nats) * len(tokens) / (len(TALE) - int(len(TALE) * 0.9)) / math.log(2)
    assert result["final_val_loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert result["final_val_bpc"] == pytest.approx(wanted, rel=1e-5)
    for name, split in (("best_val", "val"), ("final_train", "train"), ("minibatch", "train")):
        loss, bpc = (
            next(result[key] for key in result if name in key and kind in key) for kind in ("loss", "bpc")
        )
        part = data.meta["splits"][split]
        assert bpc == pytest.approx(loss / math.log(2) * part["tokens"] / part["characters"])
    assert f"val loss {result['final_val_loss']:.4f} ({result['final_val_bpc']:.4f} bits a character)" in said
    evaluate.main([str(folder)])
    line = f"last weights, val: {result['final_val_loss']:.4f} nats a token, {wanted:.4f} bits a character"
    assert line in capsys.readouterr().out


def test_a_run_folder_is_enough_to_sample_from(subword_run, capsys, monkeypatch):
    starts, generate = [], GPT.generate
    monkeypatch.setattr(GPT, "generate", lambda self, idx, *r: starts.append(idx) or generate(self, idx, *r))
    folder = subword_run(max_iters=5, sample_tokens=9)
    (folder.parent / "bpe" / "meta.json").unlink()
    sample.main([str(folder), "--device=cpu", "--max_new_tokens=9"])
    newline = VOCABULARY.index(b"\n")
    assert [start.tolist() for start in starts] == [[[newline]], [[newline]]]
    at_the_end, text = capsys.readouterr().out.split("---\n")[1::2][:2]
    assert at_the_end == text
    sample.main([str(folder), "--device=cpu", "--max_new_tokens=5", "--prompt=naïve 日本 <|endoftext|>"])
    assert "---\nnaïve 日本 <|endoftext|>" in capsys.readouterr().out


def test_records_are_drawn_without_the_vocabulary(subword_run, tmp_path):
    study = tmp_path / "out" / "tiny"
    for arm, knobs in (("baseline", {"noise_sigma": 0.0}), ("noise", {})):
        for seed in (1, 2):
            subword_run(f"out/tiny/{arm}/seed{seed}", seed=seed, max_iters=8, **knobs)
    record = {
        "name": "tiny",
        "size": "cpu",
        "title": "T",
        "baseline": "baseline",
        "arms": ["baseline", "noise"],
    }
    write_json(study / "study.json", record)
    collect.main([str(study), f"--to={tmp_path / 'results'}"])
    about = read_json(tmp_path / "results" / "tiny" / "cpu" / "noise" / "seed1" / "run.json")
    there = read_json(study / "noise" / "seed1" / "run.json")
    assert there["corpus"].pop("vocabulary")
    assert about == there
    assert plot.main([str(tmp_path / "results")]) == 0
    ((setting,), (other,)) = (read_settings([folder]) for folder in (tmp_path / "results", study))
    assert tables.loss_table(setting).rows == tables.loss_table(other).rows
    text = tables.markdown([tables.loss_table(setting)])
    bits = [run.result["final_val_bpc"] for run in setting.arms[1].runs]
    assert "| val, final, whole split, bits a character |" in text
    assert f"| {tables.with_interval(*tables.interval(bits))} |" in text
    assert "in nats per token. Bits a character: nats / ln 2 times" in text
    assert "iterations of 8 × 16 tokens" in text


def test_characters_have_no_column_of_bits(run, tmp_path):
    run("baseline/seed1", max_iters=4)
    (setting,) = read_settings([tmp_path / "baseline"])
    assert "bits" not in tables.markdown([tables.loss_table(setting)])


def test_subwords_are_the_texts_that_they_encode():
    meta = {"unit": "token", "vocabulary": ["a", "\xc3", "\xc3\xa9", " the", "\xff\xfe", "\n", "<|endoftext|>"]}
    symbols = {"a": 0, 0xC3: 1, "é": 2, " the": 3, b"\xff\xfe": 4, "\n": 5, "<|endoftext|>": 6}
    assert symbol_indices(meta) == symbols


def test_weights_go_from_characters_to_subwords_and_between_vocabularies(run, prepared, tmp_path):
    characters = run("of characters", dataset=write_corpus(tmp_path / "c", TALE), max_iters=5)
    folder, knobs = prepared(), {"max_iters": 4, "learning_rate": 0.0, "noise_sigma": 0.0}
    first = run("first", dataset=folder, init_from=characters, **knobs)
    there = symbol_indices(read_json(characters / "run.json")["corpus"])
    here = symbol_indices(read_json(first / "run.json")["corpus"])
    shared = [symbol for symbol in there if symbol in here]
    assert set("abc \n,é日") < set(shared)
    assert "ö" not in shared, "it takes two tokens"
    old, new = weights(characters, "best.pt")["wte.weight"], weights(first, "best.pt")["wte.weight"]
    assert torch.equal(new[[here[s] for s in shared]], old[[there[s] for s in shared]])
    count = json.loads((first / "run.json").read_text())["init_from"]["symbols"]
    assert count == {"carried": len(shared), "fresh": 337 - len(shared), "left": len(there) - len(shared)}
    prepared(TALE, VOCABULARY[255::-1] + VOCABULARY[256:280], "--force")
    second = run("second", dataset=folder, init_from=first, **knobs)
    newest = weights(second, "best.pt")["wte.weight"]
    assert torch.equal(newest[:256], new[:256].flip(0))
    assert torch.equal(newest[256:280], new[256:280])
    assert torch.equal(newest[280], new[336]), "the special token is the last of both"
