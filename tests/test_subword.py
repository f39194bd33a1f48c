"""The corpus of subwords: prepared from a small vocabulary made here, trained on, sampled, measured in bits.

The vocabulary has the bytes in an order that is not theirs, as GPT-2's has, so that a rank is not a byte.
"""

import base64
import hashlib
import itertools
import math
import random
import re
import zipfile

import numpy as np
import pytest
import requests
import tiktoken
import torch
from conftest import TEXT, tokens_of
from tiktoken_ext.openai_public import r50k_pat_str

import sample
from config import UserError
from data import build, subword
from data.corpus import Corpus, decode, encode, symbol_indices
from data.files import read_json
from data.shakespeare_bpe import prepare
from data.text_bpe import prepare as text_bpe
from data.text_char.prepare import streams
from data.tinystories_bpe import prepare as tinystories_bpe
from data.wikitext103_bpe import prepare as wikitext103_bpe
from data.wikitext103_char import prepare as wikitext103_char
from model import GPT, GPTConfig
from training import evaluate
from training.pretrained import Source, carry_over

# Its first 90 % end within " riverbank", which is one token of VOCABULARY.
TALE = TEXT[:4000] + " Möwe\n" + " naïve café, 日本 🙂 it's <|endoftext|>\n" * 3 + " riverbank" * 49
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"  # the pattern, as `re` has it
BYTES = [bytes([(7 * n + 33) % 256]) for n in range(256)]
WORDS = (b" the", b" riverbank", b" saw", b" Ada", b" one", b" by", b" two")
VOCABULARY = list(dict.fromkeys([*BYTES, *(w[:size] for w in WORDS for size in range(2, len(w) + 1))]))
RANKS = {token: rank for rank, token in enumerate(VOCABULARY)}


def tokens_by_hand(text):
    """What encoding should give: in each piece neighbours are joined, the lowest rank first."""
    tokens = []
    for piece in re.findall(PIECES, text):
        word = [bytes([byte]) for byte in piece.encode()]
        while found := [
            (RANKS[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(word)) if a + b in RANKS
        ]:
            _, i = min(found)
            word[i : i + 2] = [word[i] + word[i + 1]]
        tokens += [RANKS[token] for token in word]
    return tokens


def rank_file(path, tokens=VOCABULARY):
    path.write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(tokens)))
    return path


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """prepared(tokens, *options) is the folder `bpe`, prepared as if TALE were tinyshakespeare."""

    def do(tokens=VOCABULARY, *options):
        (tmp_path / "text.txt").write_text(TALE, encoding="utf-8")
        monkeypatch.setattr(prepare, "SHA256", hashlib.sha256(TALE.encode()).hexdigest())
        words = [f"--source={tmp_path / 'text.txt'}", *options]
        if tokens:
            words.append(f"--vocabulary={rank_file(tmp_path / 'tokens.tiktoken', tokens)}")
        prepare.main(words, tmp_path / "bpe")
        return tmp_path / "bpe"

    return do


def test_a_text_is_cut_by_characters_and_each_part_encoded(prepared):
    folder, cut, size = prepared(), int(len(TALE) * 0.9), len(VOCABULARY) + 1
    parts = {"train": TALE[:cut], "val": TALE[cut:]}
    wanted = {split: tokens_by_hand(part) for split, part in parts.items()}
    assert tokens_by_hand(TALE) != wanted["train"] + wanted["val"], "the cut is within a token"
    meta = read_json(folder / "meta.json")
    for split, tokens in wanted.items():
        assert tokens_of(folder, split).tolist() == tokens
        digest = hashlib.sha256(np.array(tokens, "<u2").tobytes()).hexdigest()
        counts = {"tokens": len(tokens), "characters": len(parts[split])}
        assert meta["splits"][split] == {**counts, "sha256": digest}
    assert (meta["unit"], meta["vocab_size"], meta["special"]) == ("token", size, ["<|endoftext|>"])
    assert [symbol.encode("latin-1") for symbol in meta["vocabulary"]] == [*VOCABULARY, b"<|endoftext|>"]
    for name, source in (("text.txt", meta["source"]), ("tokens.tiktoken", meta["source"]["vocabulary"])):
        digest = hashlib.sha256((folder.parent / name).read_bytes()).hexdigest()
        assert (source["from"], source["sha256"]) == (name, digest)


def test_decoding_gives_the_text_back(prepared):
    data = Corpus(str(prepared()))
    end = data.meta["vocab_size"] - 1
    assert "".join(decode(tokens.tolist(), data.meta) for tokens in data.tokens.values()) == TALE
    for text in ("ROMEO:\nnaïve — 日本語 🙂, 12's", "<|endoftext|>", "\n", " \t "):
        assert decode(encode(text, data.meta), data.meta) == text
        assert end not in encode(text, data.meta), "a special token is no text"
    assert encode(" Ada saw one", data.meta) == tokens_by_hand(" Ada saw one")
    assert len(encode(" Ada saw one", data.meta)) < 8
    assert decode([end], data.meta) == "<|endoftext|>"
    assert decode(encode("語", data.meta)[:1], data.meta) == "\ufffd"
    assert decode(encode("a\udce9", data.meta), data.meta) == "a\ufffd", "a byte of a prompt that was no UTF-8"


def test_a_text_is_cut_as_tiktoken_cuts_it_for_gpt2():
    pairs = [bytes(pair) for pair in itertools.product(b"1 \n\t.!'b", repeat=2)]
    ranks = {token: rank for rank, token in enumerate(BYTES + pairs)}
    ours, theirs = (
        tiktoken.Encoding("one", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        for pattern in (subword.PATTERN, r50k_pat_str)
    )
    draw = random.Random(0)
    for _ in range(1000):
        text = "".join(draw.choices("abé'sltredvm \n\t 1٣日.!\u00a0\r", k=20))
        assert ours.encode_ordinary(text) == theirs.encode_ordinary(text), text


SPACED = "".join(random.Random(1).choices("abé'st \n\t\r\v\x1c\x85\u00a0\u2028\u30001.", k=4000)) + "x"


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_text_in_pieces_has_the_tokens_of_the_whole(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(build, "CHUNK", chunk)
    text = SPACED.replace("\r", "\n")
    vocabulary = BYTES + [bytes(pair) for pair in itertools.product(b" \n\t.ab", repeat=2)]
    (tmp_path / "my.txt").write_text(text, encoding="utf-8", newline="")
    text_bpe.main(
        [str(tmp_path / "my.txt"), f"--vocabulary={rank_file(tmp_path / 'ranks', vocabulary)}"], tmp_path
    )
    meta, cut = Corpus(str(tmp_path)).meta, int(len(text) * 0.9)
    assert len(list(subword.at_spaces(build.read_text(streams([tmp_path / "my.txt"]))))) > 3
    for split, part in (("train", text[:cut]), ("val", text[cut:])):
        assert tokens_of(tmp_path, split).tolist() == encode(part, meta)
    with pytest.raises(UserError, match="--force"):
        text_bpe.main([__file__], tmp_path)
    with pytest.raises(UserError, match="text_bpe"):
        text_bpe.main([], tmp_path)


def test_a_text_without_spaces_is_looked_through_once(monkeypatch):
    looked = []
    monkeypatch.setattr(subword, "is_cut", lambda text, place: looked.append(place))
    assert list(subword.at_spaces("ACGT" for _ in range(9))) == ["ACGT" * 9]
    assert sorted(looked) == list(range(1, 36))


def test_blanks_that_tiktoken_cannot_encode_are_one_line(tmp_path):
    (tmp_path / "my.txt").write_text("a b\n" * 9 + " " * 1_000_000 + "a b\n" * 1_000_000)
    ranks = rank_file(tmp_path / "ranks", [bytes([byte]) for byte in range(256)])
    with pytest.raises(UserError, match=r"my\.txt: tiktoken cannot encode it"):
        text_bpe.main([str(tmp_path / "my.txt"), f"--vocabulary={ranks}"], tmp_path)


def test_wikitext103_is_in_its_own_splits_by_subwords_and_by_characters(tmp_path, monkeypatch):
    texts = {"train": TALE, "val": "Zwölf Boote <|endoftext|>\n", "test": "日 the sea\r\n"}
    archive = tmp_path / "wiki.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for split, name in wikitext103_char.MEMBERS.items():
            file.writestr(name, texts[split])
    with pytest.raises(UserError, match="SHA-256"):
        wikitext103_char.main([f"--source={archive}"], tmp_path / "char")
    monkeypatch.setattr(wikitext103_char, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    ranks = f"--vocabulary={rank_file(tmp_path / 'ranks')}"
    for script, name, options in ((wikitext103_char, "char", []), (wikitext103_bpe, "bpe", [ranks])):
        for _ in range(2):
            script.main([f"--source={archive}", *options], tmp_path / name)
        data = Corpus(str(tmp_path / name))
        assert list(data.tokens) == ["train", "val", "test"]
        for split, text in texts.items():
            text = text.replace("\r\n", "\n")
            assert decode(data.tokens[split].tolist(), data.meta) == text
            assert encode(text, data.meta) == data.tokens[split].tolist(), "the end of a text is a text here"
            assert data.meta["splits"][split].get("characters", len(data.tokens[split])) == len(text)


def test_a_story_ends_with_the_special_token(tmp_path, monkeypatch):
    texts = {"train": TALE + "<|endoftext|>\n two\n<|endoftext|>", "val": " the <|endoftext|>"}
    files = {}
    for split, (name, *_) in tinystories_bpe.FILES.items():
        (tmp_path / name).write_text(texts[split], encoding="utf-8")
        files[split] = (name, None, hashlib.sha256(texts[split].encode()).hexdigest())
    monkeypatch.setattr(tinystories_bpe, "FILES", files)
    monkeypatch.setattr(build, "CHUNK", 5)
    ranks = rank_file(tmp_path / "ranks")
    tinystories_bpe.main([f"--source={tmp_path}", f"--vocabulary={ranks}"], tmp_path / "c")
    data = Corpus(str(tmp_path / "c"))
    end = data.meta["vocab_size"] - 1
    for split, text in texts.items():
        wanted = [[*tokens_by_hand(story), end] for story in text.split("<|endoftext|>")[:-1]]
        assert data.tokens[split].tolist() == list(itertools.chain.from_iterable(wanted))
        assert decode(data.tokens[split].tolist(), data.meta) == text
    assert data.meta["splits"]["val"]["characters"] == 18
    monkeypatch.setitem(files, "val", (files["val"][0], None, "0" * 64))
    with pytest.raises(UserError, match="SHA-256"):
        tinystories_bpe.main([f"--source={tmp_path}", f"--vocabulary={ranks}", "--force"], tmp_path / "c")


def test_gpt2s_vocabulary_is_taken_from_tiktoken(prepared, monkeypatch):
    special = {"<|endoftext|>": len(RANKS)}
    gpt2 = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=RANKS, special_tokens=special)
    meta = read_json(prepared() / "meta.json")
    monkeypatch.setattr(tiktoken, "get_encoding", {"gpt2": gpt2}.__getitem__)
    again = read_json(prepared(None, "--force") / "meta.json")
    for each in (meta, again):
        del each["source"]["vocabulary"]["from"]
    assert again == meta


@pytest.mark.parametrize("error", [requests.ConnectionError("no"), ValueError("Hash mismatch")])
def test_a_vocabulary_that_cannot_be_had_is_one_line(prepared, monkeypatch, tmp_path, error):
    def fail(_):
        raise error

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(UserError, match=rf"^[^\n]*{type(error).__name__}[^\n]*--vocabulary[^\n]*$"):
        prepared(None)
    assert not (tmp_path / "bpe").exists()


LINES = [base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(BYTES)]
TOO_MANY = [base64.b64encode(b"%d" % n) + b" %d\n" % n for n in range(256, 65_536)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *(
            ([*LINES, line], "line 257")
            for line in (b"a b c\n", b"!YWJj 256\n", b"YWJj\n", b"\xff\xfe\x00\x01")
        ),
        *(([*LINES, line], "ranks") for line in (LINES[0], b"enp6 257\n", b"enp6 255\n")),
        (LINES[:255], "1 of the 256 single bytes"),
        ([*LINES, *TOO_MANY], "65,536 tokens"),
        (None, "no such file"),
    ],
)
def test_a_rank_file_that_will_not_do_is_one_line(tmp_path, content, reason):
    path = tmp_path / "ranks"
    if content:
        path.write_bytes(b"".join(content))
    with pytest.raises(UserError, match=rf"^--vocabulary={path}[^\n]*{reason}[^\n]*$"):
        prepare.main([f"--vocabulary={path}"], tmp_path / "bpe")
    assert not (tmp_path / "bpe").exists()


def test_another_vocabulary_wants_force_and_the_largest_fills_a_uint16(prepared):
    written = (prepared() / "train.bin").stat().st_mtime_ns
    assert (prepared() / "train.bin").stat().st_mtime_ns == written
    most = VOCABULARY + [b"\xff%d" % n for n in range(65_535 - len(VOCABULARY))]
    with pytest.raises(UserError, match="--force"):
        prepared(most)
    data = Corpus(str(prepared(most, "--force")))
    assert data.meta["vocab_size"] == 65_536
    assert decode(data.tokens["train"].tolist(), data.meta) == TALE[: int(len(TALE) * 0.9)]


def test_bits_a_character_are_those_of_the_whole_split():
    """A mean of 3 nats over each of 30 tokens is 90 nats, over 100 characters 0.9, and in bits 0.9 / ln 2."""
    meta = {"unit": "token", "splits": {"val": {"tokens": 30, "characters": 100}, "test": {"tokens": 30}}}
    assert evaluate.bits(3.0, meta, "val") == pytest.approx(0.9 / math.log(2), rel=1e-15)
    assert evaluate.bits(0.7, meta, "test") == 0.7 / math.log(2), "of characters or bytes"
    assert all(number in evaluate.with_bits(3.0, meta, "val") for number in ("3.0000", "1.2984"))


def test_a_run_is_measured_in_bits_a_character_and_sampled_without_its_corpus(prepared, run, capsys):
    folder = run(dataset=prepared(), max_iters=5, sample_tokens=9, input_noise=0.2)
    result, meta = read_json(folder / "result.json"), read_json(folder / "run.json")["corpus"]
    for name, split in (("best_val", "val"), ("final_val", "val"), ("final_train", "train")):
        part = meta["splits"][split]
        wanted = result[f"{name}_loss"] / math.log(2) * part["tokens"] / part["characters"]
        assert result[f"{name}_bpc"] == pytest.approx(wanted)
    capsys.readouterr()
    evaluate.main([str(folder)])
    measured = f"last weights, val: {evaluate.with_bits(result['final_val_loss'], meta, 'val')}\n"
    assert measured in capsys.readouterr().out
    (folder.parent / "bpe" / "meta.json").unlink()
    prompt = "naïve 日本 <|endoftext|>"
    sample.main([str(folder), "--device=cpu", "--max_new_tokens=5", f"--prompt={prompt}"])
    assert f"---\n{prompt}" in capsys.readouterr().out


def test_weights_are_carried_over_by_the_text_that_a_subword_encodes():
    meta = {"unit": "token", "vocabulary": ["a", "\xc3", "\xc3\xa9", " the", "\xff\xfe", "\n", "<|endoftext|>"]}
    assert symbol_indices(meta) == {
        **{"a": 0, 0xC3: 1, "é": 2, " the": 3, b"\xff\xfe": 4, "\n": 5, "<|endoftext|>": 6}
    }
    assert symbol_indices({"unit": "byte", "vocabulary": [97, 0xE9]}) == {"a": 0, 0xE9: 1}, "0xE9 is no é"
    characters = {"unit": "character", "vocabulary": ["\n", "a", "b", "é"]}
    shape = {"block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 4}
    old, new = (GPT.create(GPTConfig(size, **shape), seed=size) for size in (4, 7))
    fresh = new.wte.weight.detach().clone()
    record = carry_over(Source(old, characters, {}), new, meta)
    assert record["symbols"] == {"carried": 3, "fresh": 4, "left": 1}
    assert torch.equal(new.wte.weight[[5, 0, 2]], old.wte.weight[[0, 1, 3]])
    assert torch.equal(new.wte.weight[[1, 3, 4, 6]], fresh[[1, 3, 4, 6]])
