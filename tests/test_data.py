"""Preparing corpora, and what a prepared corpus gives to training."""

import dataclasses
import hashlib
import io
import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT, tokens_of, write_corpus

from config import ROOT, UserError
from data import build
from data.corpus import Corpus, batch_tokens, decode
from data.enwik8 import prepare as enwik8
from data.pydoc_char import prepare as pydoc_char
from data.shakespeare_char import prepare as shakespeare_char
from data.text8 import prepare as text8
from data.text_char import prepare as text_char

AWKWARD = "naïve café — 日本 🙂\nplain\n" * 7


def nanogpt_bytes(text):
    """What nanoGPT's shakespeare_char script writes for a text, by its published steps."""
    index = {character: number for number, character in enumerate(sorted(set(text)))}
    cut = int(len(text) * 0.9)
    return {
        split: np.array([index[character] for character in part], dtype=np.uint16).tobytes()
        for split, part in (("train", text[:cut]), ("val", text[cut:]))
    }


@pytest.mark.parametrize("text", [TEXT, AWKWARD, "ab" * 30_000], ids=["ascii", "unicode", "two symbols"])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_bytes_are_nanogpts(tmp_path, monkeypatch, text, chunk):
    monkeypatch.setattr(build, "CHUNK", max(chunk, len(text) // 1000))
    (tmp_path / "my.txt").write_text(text, encoding="utf-8")
    text_char.main([str(tmp_path / "my.txt")], tmp_path)
    for split, wanted in nanogpt_bytes(text).items():
        assert (tmp_path / f"{split}.bin").read_bytes() == wanted
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    assert meta["vocabulary"] == sorted(set(text))
    assert meta["source"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    for split, part in meta["splits"].items():
        data = (tmp_path / f"{split}.bin").read_bytes()
        assert part == {"tokens": len(data) // 2, "sha256": hashlib.sha256(data).hexdigest()}


def test_windows_text_is_read_as_text(tmp_path):
    (tmp_path / "my.txt").write_bytes("﻿one\r\ntwo\r\n".encode() * 20)
    text_char.main([str(tmp_path / "my.txt")], tmp_path)
    assert "\r" not in json.loads((tmp_path / "meta.json").read_text())["vocabulary"]


def test_several_texts_are_one_corpus(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 20)
    (tmp_path / "b.txt").write_text("xyz" * 20)
    text_char.main([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], tmp_path)
    corpus = Corpus(str(tmp_path))
    assert corpus.meta["vocabulary"] == list("abcxyz")
    assert decode(corpus.tokens["train"][:6].tolist(), corpus.meta) == "abcabc"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 distinct symbols"),
        (b"a", "train split would be empty"),
        (b"caf\xe9", "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_text_that_will_not_do(tmp_path, content, words):
    path = tmp_path / "my.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        text_char.main([str(path)], tmp_path)
    assert not (tmp_path / "meta.json").exists()


def test_text_char_without_a_text_says_the_command(tmp_path):
    with pytest.raises(UserError, match=r"python data/text_char/prepare.py my.txt"):
        text_char.main([], tmp_path)


def test_a_corpus_may_lie_at_home(corpus, monkeypatch):
    monkeypatch.setenv("HOME", str(corpus.parent))
    monkeypatch.setenv("USERPROFILE", str(corpus.parent))
    assert Corpus(f"~/{corpus.name}").meta == Corpus(str(corpus)).meta


def test_a_prepared_corpus_is_left_alone_without_force(tmp_path, capsys):
    def prepare(text, *options):
        (tmp_path / "my.txt").write_text(text * 9)
        text_char.main([str(tmp_path / "my.txt"), *options], tmp_path)
        return json.loads((tmp_path / "meta.json").read_text())["vocabulary"]

    assert prepare("ab") == ["a", "b"]
    written = (tmp_path / "train.bin").stat().st_mtime_ns
    assert prepare("ab") == ["a", "b"]
    assert "is prepared already; --force" in capsys.readouterr().out
    assert (tmp_path / "train.bin").stat().st_mtime_ns == written
    with pytest.raises(UserError, match=r"holds another text, my\.txt: --force"):
        prepare("xyz")
    assert prepare("xyz", "--force") == ["x", "y", "z"]


def test_the_embedded_corpus_needs_nothing(tmp_path):
    pydoc_char.main([], tmp_path)
    corpus = Corpus(str(tmp_path))
    assert sum(map(len, corpus.tokens.values())) > 300_000
    assert "Python" in corpus.meta["source"]["from"]
    text = "".join(decode(tokens.tolist(), corpus.meta) for tokens in corpus.tokens.values())
    assert hashlib.sha256(text.encode()).hexdigest() == corpus.meta["source"]["sha256"]


def test_a_wrong_source_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "other.txt").write_text("to be or not to be")
    with pytest.raises(UserError, match=r"SHA-256.*text_char"):
        shakespeare_char.main(["--source", str(tmp_path / "other.txt")], tmp_path / "corpus")
    with pytest.raises(UserError, match="no such file"):
        shakespeare_char.main(["--source", str(tmp_path / "none.txt")], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def peak_memory(code, *arguments):
    """The kB that a process running this code with these arguments held at its peak."""
    code += "\nprint(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    words = [sys.executable, "-c", "import sys; from pathlib import Path\n" + code, *map(str, arguments)]
    output = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return int(output.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its peak memory")
def test_100_mb_of_text_are_prepared_within_400_mb(tmp_path):
    text = "".join(map(chr, range(32, 127))) * 11_000 + "é" * 10
    with open(tmp_path / "my.txt", "w", encoding="utf-8") as file:
        for _ in range(96):
            file.write(text)
    code = "from data.text_char import prepare; prepare.main([sys.argv[1]], Path(sys.argv[2]))"
    assert (tmp_path / "my.txt").stat().st_size > 100e6
    assert peak_memory(code, tmp_path / "my.txt", tmp_path / "corpus") < 400e3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its peak memory")
def test_a_zip_of_100_mb_is_prepared_within_200_mb(tmp_path):
    """A text of enwik8's length in a zip, by enwik8's own script, but for its hash."""
    block, digest = bytes(range(200)) * 5000, hashlib.sha256()
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("enwik8", "w") as file,
    ):
        for _ in range(100):
            file.write(block)
            digest.update(block)
    code = (
        "import dataclasses; from data.enwik8 import prepare\n"
        "prepare.ENWIK8 = dataclasses.replace(prepare.ENWIK8, sha256=sys.argv[3])\n"
        "prepare.main(['--source', sys.argv[1]], Path(sys.argv[2]))"
    )
    assert peak_memory(code, tmp_path / "a.zip", tmp_path / "corpus", digest.hexdigest()) < 200e3, (
        "it is not all held at once"
    )
    meta = json.loads((tmp_path / "corpus" / "meta.json").read_text())
    lengths = {name: part["tokens"] for name, part in meta["splits"].items()}
    assert lengths == {"train": 90_000_000, "val": 5_000_000, "test": 5_000_000}
    assert (tmp_path / "corpus" / "train.bin").stat().st_size == 180_000_000
    assert "partial" not in meta
    assert meta["source"] == {"from": "a.zip", "bytes": 100_000_000, "sha256": digest.hexdigest()}


WIKI = enwik8.ENWIK8.opening + bytes(range(256)) * 100 + "é".encode()[:1]
PLAIN = text8.TEXT8.opening + b" the quick brown fox jumps over the lazy dog" * 300


def zipped(name, text):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["plain", "zip"])
@pytest.mark.parametrize(
    ("script", "name", "text", "unit"), [(enwik8, "enwik8", WIKI, "byte"), (text8, "text8", PLAIN, "character")]
)
def test_a_partial_corpus_is_in_proportion_and_says_so(tmp_path, capsys, script, name, text, unit, form):
    (tmp_path / "part").write_bytes(text if form == "plain" else zipped(name, text))
    words, folder = ["--partial", f"--source={tmp_path / 'part'}"], tmp_path / "corpus"
    script.main(words, folder)
    corpus, n = Corpus(str(folder)), len(text)
    edges = [0, int(n * 0.9), int(n * 0.95), n]
    parts = [text[start:stop] for start, stop in itertools.pairwise(edges)]
    vocabulary = sorted(set(text))
    assert corpus.meta["vocabulary"] == (vocabulary if unit == "byte" else list(map(chr, vocabulary)))
    for part, tokens in zip(parts, corpus.tokens.values()):
        assert bytes(vocabulary[token] for token in tokens.tolist()) == part
    assert list(corpus.tokens) == ["train", "val", "test"]
    digest = hashlib.sha256(text).hexdigest()
    assert corpus.meta["source"] == {"from": "part", "bytes": n, "sha256": digest}
    assert corpus.meta["partial"] == {"tokens": n, "of": 100_000_000}
    assert corpus.meta["unit"] == unit
    assert f"the first {n:,} {unit}s of 100,000,000" in capsys.readouterr().out
    script.main(words, folder)
    assert "is prepared already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"holds another text, part \(the first .*--force"):
        script.main([], folder)
    (tmp_path / "part").write_bytes(text[:-1])
    with pytest.raises(UserError, match=r"holds another text, part \(the first .*--force"):
        script.main(words, folder)


def test_the_whole_is_told_by_its_hash_and_not_called_partial(tmp_path, monkeypatch):
    digest = hashlib.sha256(WIKI).hexdigest()
    monkeypatch.setattr(enwik8, "ENWIK8", dataclasses.replace(enwik8.ENWIK8, size=len(WIKI), sha256=digest))
    (tmp_path / "all").write_bytes(WIKI)
    with pytest.raises(UserError, match="leave out --partial"):
        enwik8.main(["--partial", f"--source={tmp_path / 'all'}"], tmp_path / "corpus")
    enwik8.main([f"--source={tmp_path / 'all'}"], tmp_path / "corpus")
    assert "partial" not in Corpus(str(tmp_path / "corpus")).meta


@pytest.mark.parametrize(
    ("script", "text", "options", "words"),
    [
        (enwik8, WIKI, [], r"25,\d+ bytes of SHA-256 .*100,000,000 of SHA-256 2b49.*--partial"),
        (text8, PLAIN, [], r"bytes of SHA-256 .*6e89.*--partial"),
        (enwik8, PLAIN, ["--partial"], r"no part of enwik8 .* begins with b' anarchism"),
        (enwik8, WIKI[1:], ["--partial"], r"no part of enwik8 from its beginning"),
        (text8, WIKI, ["--partial"], r"no part of text8 .* holds b'<'"),
        (text8, PLAIN + b"\n", ["--partial"], r"holds b'\\n'"),
        (text8, PLAIN[1:], ["--partial"], r"no part of text8 from its beginning"),
        (text8, zipped("text9", PLAIN), ["--partial"], r"one member 'text8' and has 0, among 'text9'"),
        (text8, zipped("text8", PLAIN)[:-40], [], r"damaged zip"),
        (enwik8, b"", ["--partial"], r"0 distinct symbols"),
    ],
)
def test_another_text_is_refused_and_nothing_is_written(tmp_path, script, text, options, words):
    (tmp_path / "text").write_bytes(text)
    with pytest.raises(UserError, match=words) as error:
        script.main([f"--source={tmp_path / 'text'}", *options], tmp_path / "corpus")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "corpus").exists()


def test_partial_wants_a_source(tmp_path):
    with pytest.raises(UserError, match="--partial needs --source=PATH_OR_URL"):
        text8.main(["--partial"], tmp_path)


def test_an_error_half_way_leaves_no_meta(tmp_path):
    write_corpus(tmp_path, TEXT)
    turns = iter([[build.code_points(TEXT)], OSError("the disk is full")])

    def chunks():
        turn = next(turns)
        if isinstance(turn, OSError):
            raise turn
        return iter(turn)

    with pytest.raises(OSError, match="the disk is full"):
        build.write_corpus(tmp_path, chunks, {"from": "-", "sha256": "-"})
    assert not (tmp_path / "meta.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_preparing_imports_no_torch():
    scripts = "data.text_char.prepare, data.shakespeare_bpe.prepare"
    code = f"import sys, data.build, {scripts}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_batch_is_windows_of_the_train_split(corpus):
    data, tokens = Corpus(str(corpus)), tokens_of(corpus, "train").astype(np.int64)
    x, y = data.batch(seed=7, batch_size=64, block_size=16)
    assert x.shape == y.shape == (64, 16)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    windows = {tuple(tokens[i : i + 17]) for i in range(len(tokens) - 16)}
    assert all(tuple(row.tolist()) in windows for row in torch.cat((x, y[:, -1:]), 1))
    assert all(torch.equal(a, b) for a, b in zip(data.batch(7, 64, 16), (x, y)))
    assert not torch.equal(data.batch(8, 64, 16)[0], x)


def test_a_batch_reaches_both_ends_of_the_split(tmp_path):
    text = "".join(chr(200 + i) for i in range(100))
    data = Corpus(str(write_corpus(tmp_path / "c", text)))
    x, y = data.batch(0, 2000, 80)
    assert x[:, 0].min() == 0
    assert y[:, -1].max() == 89, "the train split's last token is a target"


@pytest.mark.parametrize("at_once", [16, 100, 1 << 14])
def test_windows_predict_every_token_once(corpus, at_once, monkeypatch):
    monkeypatch.setattr("data.corpus.batch_tokens", lambda *_: at_once)
    data = Corpus(str(corpus))
    batches = list(data.windows("val", 16))
    targets = torch.cat([y.flatten() for _, y in batches])
    assert np.array_equal(targets, tokens_of(corpus, "val")[1:])
    inputs = torch.cat([x.flatten() for x, _ in batches])
    assert np.array_equal(inputs, tokens_of(corpus, "val")[:-1])


def test_a_batch_of_windows_on_a_card_has_logits_of_a_gigabyte_at_most():
    card = torch.device("cuda")
    assert 2**29 < 4 * 50_257 * batch_tokens(card, 50_257) <= 2**30
    assert batch_tokens(card, 65) == 2**15


def test_capped_windows_are_whole_spread_and_within_the_cap(corpus):
    data, tokens = Corpus(str(corpus)), tokens_of(corpus, "train")
    rows = torch.cat([x for x, _ in data.windows("train", 16, most_tokens=1000)])
    assert rows.shape == (62, 16)
    ends = np.linspace(0, len(tokens) // 16, 62, endpoint=False).astype(int) * 16
    assert np.array_equal(rows[0], tokens[:16])
    assert abs(len(tokens) - 16 - ends[-1]) < 500
    assert torch.equal(rows, torch.cat([x for x, _ in data.windows("train", 16, most_tokens=1000)]))


def test_tokens_beyond_int16_survive(tmp_path):
    """GPT-2's vocabulary has 50,257 tokens; torch indexes int16 and not uint16 on every device."""
    text = "".join(chr(0x10000 + i) for i in range(50_257))
    data = Corpus(str(write_corpus(tmp_path / "c", text)))
    seen = torch.cat([y.flatten() for split in ("train", "val") for _, y in data.windows(split, 64)])
    wanted = [token for token in range(50_257) if token not in (0, int(50_257 * 0.9))]
    assert seen.tolist() == wanted


def test_a_split_shorter_than_the_context_is_refused(corpus):
    with pytest.raises(UserError, match=r"val split.*block_size=5000.*smaller block_size"):
        Corpus(str(corpus)).check_length(5000)


def test_an_unknown_dataset_is_named(capsys):
    with pytest.raises(UserError, match=r"'shakespear_char'.*did you mean 'shakespeare_char'"):
        Corpus("shakespear_char")


@pytest.mark.parametrize("damage", ["short", "changed", "format", "lost", "json"])
def test_damaged_files_are_refused_with_the_mend(tmp_path, damage):
    folder = write_corpus(tmp_path / "c", TEXT)
    meta = json.loads((folder / "meta.json").read_text())
    if damage == "short":
        (folder / "val.bin").write_bytes(b"\0\0")
    elif damage == "changed":
        (folder / "val.bin").write_bytes((folder / "val.bin").read_bytes()[::-1])
    elif damage == "json":
        (folder / "meta.json").write_text('{"format": 1,')
    elif damage == "lost":
        (folder / "train.bin").unlink()
    else:
        (folder / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(UserError, match=r"damaged" if damage == "json" else r"--force"):
        Corpus(str(folder))


def test_bytes_are_decoded_as_bytes(tmp_path):
    text = "é and 日\n".encode() * 20
    build.write_corpus(
        tmp_path, lambda: iter([np.frombuffer(text, np.uint8)]), {"from": "-", "sha256": "-"}, unit="byte"
    )
    data = Corpus(str(tmp_path))
    assert decode(data.tokens["train"][:10].tolist(), data.meta).startswith("é and ")


def test_three_splits_are_90_5_5():
    parts = build.split_lengths(100_000_000, {"train": 0.9, "val": 0.05, "test": 0.05})
    assert parts == {"train": 90_000_000, "val": 5_000_000, "test": 5_000_000}
    assert build.split_lengths(1_115_394, build.HALVES) == {"train": 1_003_854, "val": 111_540}
    assert all(build.split_lengths(n, build.HALVES)["train"] == int(n * 0.9) for n in range(1, 3000))


# Fewer data and noised inputs.


def test_limited_training_tokens_are_the_first_ones(corpus):
    whole, part = Corpus(str(corpus)), Corpus(str(corpus), train_tokens=100)
    assert torch.equal(part.tokens["train"], whole.tokens["train"][:100])
    assert torch.equal(part.tokens["val"], whole.tokens["val"])
    seen = torch.cat(
        [torch.cat((x, y[:, -1:]), 1).flatten() for x, y in (part.batch(s, 8, 16) for s in range(50))]
    )
    assert set(seen.tolist()) <= set(part.tokens["train"].tolist())
    windows = [y for _, y in part.windows("train", 16)]
    assert sum(y.numel() for y in windows) == 99
    with pytest.raises(UserError, match="train_tokens=1,000,000, and the train split of small has"):
        Corpus(str(corpus), train_tokens=1_000_000)


def test_noised_inputs_are_replaced_at_the_rate_and_from_the_unigram_distribution(corpus):
    data = Corpus(str(corpus))
    x, _ = data.batch(1, 64, 128)
    counts, changed, tried = torch.zeros(data.meta["vocab_size"]), 0, 40
    for seed in range(tried):
        noised = data.noised(torch.full_like(x, -7), seed, 0.25)  # -7 is no symbol: every change shows
        changed += int((noised != -7).sum())
        counts += torch.bincount(noised[noised != -7], minlength=len(counts))
    n = x.numel() * tried
    assert changed / n == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / n) ** 0.5)
    unigram = torch.bincount(data.tokens["train"].long(), minlength=len(counts)) / len(data.tokens["train"])
    error = 4.5 * (unigram * (1 - unigram) / changed).sqrt() + 1e-9
    assert ((counts / changed - unigram).abs() < error).all()


def test_noised_inputs_are_a_function_of_the_seed_and_leave_x_alone(corpus):
    data = Corpus(str(corpus))
    x, _ = data.batch(1, 8, 16)
    before = x.clone()
    assert torch.equal(data.noised(x, 5, 0.5), data.noised(x, 5, 0.5))
    assert not torch.equal(data.noised(x, 5, 0.5), data.noised(x, 6, 0.5))
    assert torch.equal(x, before)
    assert torch.equal(data.noised(x, 5, 0.0), x)
