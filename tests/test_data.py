"""Preparing corpora, and what a prepared corpus gives to training."""

import copy
import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from conftest import LIMIT, TEXT, tokens_of, write_corpus

from config import ROOT, UserError
from data import build
from data.corpus import Corpus, batch_tokens, decode
from data.enwik8 import prepare as enwik8
from data.files import read_json
from data.meta import fault_in, same_corpus, vocabulary_sha256
from data.pydoc_char import prepare as pydoc_char
from data.shakespeare_char import prepare as shakespeare_char
from data.text8 import prepare as text8
from data.text_bpe import prepare as text_bpe
from data.text_char import prepare as text_char

AWKWARD = "naïve café — 日本 🙂\nplain\n" * 7


def nanogpt_bytes(text):
    """What nanoGPT's shakespeare_char script writes for a text, by its published steps."""
    index = {character: number for number, character in enumerate(sorted(set(text)))}
    data, cut = np.array([index[character] for character in text], dtype=np.uint16), int(len(text) * 0.9)
    return {"train": data[:cut].tobytes(), "val": data[cut:].tobytes()}


@pytest.mark.parametrize(
    ("text", "chunk"), [(TEXT, 1000), (AWKWARD, 1), (AWKWARD, 7), ("ab" * 30_000, 1 << 20)]
)
def test_bytes_are_nanogpts(tmp_path, monkeypatch, text, chunk):
    monkeypatch.setattr(build, "CHUNK", chunk)
    (tmp_path / "my.txt").write_text(text, encoding="utf-8")
    text_char.main([str(tmp_path / "my.txt")], tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    for split, wanted in nanogpt_bytes(text).items():
        assert (tmp_path / f"{split}.bin").read_bytes() == wanted
        digest = hashlib.sha256(wanted).hexdigest()
        assert meta["splits"][split] == {"tokens": len(wanted) // 2, "sha256": digest}
    assert meta["vocabulary"] == sorted(set(text))
    assert meta["source"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_several_texts_of_any_system_are_one_corpus(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa\r\nc".encode() * 20)
    (tmp_path / "b.txt").write_text("xyz" * 20)
    text_char.main([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], tmp_path)
    corpus = Corpus(str(tmp_path))
    assert corpus.meta["vocabulary"] == [*"\nacxyz", "\ufeff"], "it marks the byte order at the start alone"
    assert decode(corpus.tokens["train"][:4].tolist(), corpus.meta) == "a\nc\ufeff"
    assert decode(corpus.tokens["val"].tolist(), corpus.meta) == ("xyz" * 20)[-14:]


@pytest.mark.parametrize("encoding", ["latin1", "utf-16", "utf-32"])
def test_the_advice_for_other_encodings_can_be_followed(tmp_path, encoding):
    path = tmp_path / "my own.txt"
    path.write_bytes("café\n".encode(encoding) * 9)
    with pytest.raises(UserError) as error:
        text_char.main([str(path)], tmp_path)
    *words, arrow, target = shlex.split(str(error.value).split("by ")[1])
    assert (words, arrow) == (["iconv", "-f", encoding, "-t", "utf-8", str(path)], ">")
    assert target != str(path)


@pytest.mark.parametrize("head", [b"\x1f\x8b", b"PK\x03\x04", b"%PDF-1.7\n", b"\xe9\0"])
def test_what_is_no_text_is_not_to_be_converted(tmp_path, head):
    (tmp_path / "my.txt").write_bytes(head + b"\xe9" * 99)
    with pytest.raises(UserError, match=r"it is no text, .* unpack it"):
        text_char.main([str(tmp_path / "my.txt")], tmp_path)


@pytest.mark.parametrize("script", ["text8", "text_bpe"])
def test_a_corpus_may_lie_elsewhere_behind_a_link(tmp_path, script):
    """A large one on another disk: its script finds the other rooms from where it is called."""
    house, scratch = tmp_path / "house", tmp_path / "scratch"
    shutil.copytree(
        ROOT / "data", house / "data", ignore=lambda path, names: [n for n in names if "." not in n]
    )
    for name in ("text_char", script):
        shutil.copytree(ROOT / "data" / name, scratch / name, ignore=lambda *_: ["lock"])
        (house / "data" / name).symlink_to(scratch / name)
    (house / "config").symlink_to(ROOT / "config")
    words = [sys.executable, f"data/{script}/prepare.py", "--help"]
    assert "PATH_OR_URL" in subprocess.run(words, cwd=house, capture_output=True, text=True, check=True).stdout


def test_an_empty_option_is_not_taken_for_none(tmp_path):
    """As of a shell's variable that is not set."""
    for main, word in ((text_char.main, "--source="), (text_bpe.main, "--vocabulary=")):
        with pytest.raises(UserError, match=f"{word[:-1]}: its value is empty"):
            main([word], tmp_path)


@pytest.mark.parametrize("content", [b"", b"a", b"caf\xe9", None])
def test_a_text_that_will_not_do_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "my.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"my\.txt"):
        text_char.main([str(tmp_path / "my.txt")], tmp_path)
    assert not (tmp_path / "meta.json").exists()


def test_a_text_of_more_symbols_than_tokens_can_tell_apart_is_refused(tmp_path):
    text = "".join(map(chr, [*range(14, 0xD800), *range(0xE000, 0x14000)]))[: 1 << 16]
    for name, symbols in (("most", text), ("more", text + chr(0x14000))):
        (tmp_path / name).write_text(symbols, encoding="utf-8")
    with pytest.raises(UserError, match=r"^more: 65,537 distinct symbols[^\n]*$"):
        text_char.main([str(tmp_path / "more")], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    text_char.main([str(tmp_path / "most")], tmp_path / "corpus")
    assert Corpus(str(tmp_path / "corpus")).tokens["val"][-1] == 65_535


def test_a_prepared_corpus_is_left_alone_without_force(tmp_path):
    def prepare(text, *options):
        (tmp_path / "my.txt").write_text(text * 9)
        text_char.main([str(tmp_path / "my.txt"), *options], tmp_path)
        return json.loads((tmp_path / "meta.json").read_text())["vocabulary"]

    assert prepare("ab") == ["a", "b"]
    written = (tmp_path / "train.bin").stat().st_mtime_ns
    assert prepare("ab") == ["a", "b"]
    assert (tmp_path / "train.bin").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="--force"):
        prepare("xyz")
    assert prepare("xyz", "--force") == ["x", "y", "z"]
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[2:])):
        damage(tmp_path / "val.bin")
        prepare("xyz")
        assert len(Corpus(str(tmp_path)).tokens["val"]) == 3
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(UserError, match="--force"):
        prepare("xyz")
    assert prepare("xyz", "--force") == ["x", "y", "z"]


def test_a_script_waits_for_another_and_finds_its_corpus(tmp_path, start_python):
    folder, texts = tmp_path / "data" / "mine", {"a": TEXT, "b": TEXT[::-1]}
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "text_char" / "prepare.py", folder)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    script = str(folder / "prepare.py")
    with build.preparing(folder):
        same, other = (start_python([script, str(tmp_path / name)], PYTHONPATH=ROOT) for name in texts)
        assert all("waiting" in process.stdout.readline() for process in (same, other))
        assert not (folder / "meta.json").exists()
        text_char.main([str(tmp_path / "a")], folder)
    assert "prepared already" in same.communicate(timeout=LIMIT)[0]
    assert "--force" in other.communicate(timeout=LIMIT)[1]
    assert (same.returncode, other.returncode) == (0, 2)


@pytest.mark.parametrize("script", [*(ROOT / "data").glob("*/prepare.py")], ids=lambda path: path.parent.name)
def test_every_script_takes_the_lock_of_its_folder(monkeypatch, script):
    calls = []
    monkeypatch.setattr(build, "run", lambda *arguments: calls.append(arguments))
    main = runpy.run_path(str(script), run_name="__main__")["main"]
    assert calls == [(main, script.parent)]


def test_its_help_waits_for_no_other_process(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--help"])
    monkeypatch.setattr(build, "preparing", lambda _: pytest.fail("it takes the lock"))
    with pytest.raises(SystemExit):
        build.run(lambda argv: 0, tmp_path)


def test_what_a_killed_script_has_half_written_is_removed_and_nothing_else(tmp_path):
    ours = [".train.bin.12.tmp", ".meta.json.7.tmp", ".input.txt.99.tmp", f".{tmp_path.name}.zip.1.tmp"]
    theirs = [".notes.txt.1.tmp", "train.bin.1.tmp", ".my.train.bin.1.tmp", ".train.bin.tmp", "train.bin"]
    for name in ours + theirs:
        (tmp_path / name).write_text("")
    with build.preparing(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, "lock"}


def test_the_embedded_corpus_needs_nothing(tmp_path):
    pydoc_char.main([], tmp_path)
    corpus = Corpus(str(tmp_path))
    text = "".join(decode(tokens.tolist(), corpus.meta) for tokens in corpus.tokens.values())
    assert len(text) > 300_000
    assert hashlib.sha256(text.encode()).hexdigest() == corpus.meta["source"]["sha256"]


def test_a_wrong_source_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "other.txt").write_text("to be or not to be")
    for path in (tmp_path / "other.txt", tmp_path / "none.txt", "~nosuchuser/x.txt", "a\0b"):
        with pytest.raises(UserError, match=re.escape(f"--source={path}") + "|can be no path"):
            shakespeare_char.main(["--source", str(path)], tmp_path / "corpus")
    for script, words, named in ((text_char, [], "text_char"), (text8, ["--partial"], "--source")):
        with pytest.raises(UserError, match=named):
            script.main(words, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


WIKI = enwik8.ENWIK8.opening + bytes(range(256)) * 100 + "é".encode()[:1]
PLAIN = text8.TEXT8.opening + b" the quick brown fox jumps over the lazy dog" * 300


def zipped(name, text):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["plain", "zip"])
def test_a_text_of_any_length_passes_through_little_memory(tmp_path, monkeypatch, form):
    """What does not grow with it: the table of all code points, 2 bytes each, and two pieces of it."""
    monkeypatch.setattr(build, "CHUNK", 1 << 16)
    text = text8.TEXT8.opening + PLAIN * 1000
    (tmp_path / "text").write_bytes(text if form == "plain" else zipped("text8", text))
    tracemalloc.start()
    try:
        text8.main(["--partial", f"--source={tmp_path / 'text'}"], tmp_path / "corpus")
        assert tracemalloc.get_traced_memory()[1] < 5e6 < len(text) / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["plain", "zip"])
@pytest.mark.parametrize(
    ("script", "name", "unit", "symbol", "text"),
    [(enwik8, "enwik8", "byte", int, WIKI), (text8, "text8", "character", chr, PLAIN)],
)
def test_a_partial_corpus_is_in_proportion_and_says_so(tmp_path, script, name, unit, symbol, text, form):
    (tmp_path / "part").write_bytes(text if form == "plain" else zipped(name, text))
    words, folder, n = ["--partial", f"--source={tmp_path / 'part'}"], tmp_path / "corpus", len(text)
    script.main(words, folder)
    meta, tokens = Corpus(str(folder)).meta, Corpus(str(folder)).tokens
    vocabulary = sorted(set(text))
    assert (meta["unit"], meta["vocabulary"]) == (unit, list(map(symbol, vocabulary)))
    assert list(tokens) == ["train", "val", "test"]
    for part, (start, stop) in zip(tokens.values(), itertools.pairwise([0, int(n * 0.9), int(n * 0.95), n])):
        assert bytes(vocabulary[token] for token in part.tolist()) == text[start:stop]
    assert meta["source"] == {"from": "part", "bytes": n, "sha256": hashlib.sha256(text).hexdigest()}
    assert meta["partial"] == {"tokens": n, "of": 100_000_000}
    script.main(words, folder)  # is prepared already
    (tmp_path / "part").write_bytes(text[:-1])
    for other in ([], words):
        with pytest.raises(UserError, match="--force"):
            script.main(other, folder)


def test_the_whole_is_known_by_its_hash_and_not_called_partial(tmp_path, monkeypatch):
    whole = dataclasses.replace(enwik8.ENWIK8, size=len(WIKI), sha256=hashlib.sha256(WIKI).hexdigest())
    monkeypatch.setattr(enwik8, "ENWIK8", whole)
    (tmp_path / "all").write_bytes(WIKI)
    with pytest.raises(UserError, match="--partial"):
        enwik8.main(["--partial", f"--source={tmp_path / 'all'}"], tmp_path / "corpus")
    enwik8.main([f"--source={tmp_path / 'all'}"], tmp_path / "corpus")
    assert "partial" not in Corpus(str(tmp_path / "corpus")).meta


@pytest.mark.parametrize(
    ("script", "text", "options"),
    [
        *(
            (enwik8, WIKI, []),
            (text8, PLAIN, []),
            (enwik8, b"", ["--partial"]),
            (enwik8, WIKI[1:], ["--partial"]),
            (enwik8, WIKI.replace(b"\n", b"\r\n"), ["--partial"]),
        ),
        *((text8, text, ["--partial"]) for text in (PLAIN + b"\n", zipped("text9", PLAIN))),
    ],
)
def test_another_text_is_refused_and_nothing_is_written(tmp_path, script, text, options):
    (tmp_path / "text").write_bytes(text)
    with pytest.raises(UserError, match=r"^[^\n]*text[^\n]*$"):
        script.main([f"--source={tmp_path / 'text'}", *options], tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_an_error_half_way_leaves_no_meta(tmp_path):
    write_corpus(tmp_path, TEXT)
    errors = iter([None, OSError("the disk is full")])

    def chunks():
        yield build.code_points(TEXT[:100])
        if error := next(errors):
            raise error
        yield build.code_points(TEXT[100:])

    with pytest.raises(OSError, match="the disk is full"):
        build.write_corpus(tmp_path, chunks, {"from": "-", "sha256": "-"})
    assert not (tmp_path / "meta.json").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("at", range(3))
def test_a_kill_between_two_files_leaves_no_corpus_of_two_texts(tmp_path, monkeypatch, at):
    write_corpus(tmp_path, TEXT)
    replace, count = os.replace, itertools.count()

    def killed(*paths):
        if next(count) == at:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path, TEXT[::-1])
    assert not (tmp_path / "meta.json").exists()


def test_splits_are_cut_as_nanogpts():
    parts = build.split_lengths(100_000_000, {"train": 0.9, "val": 0.05, "test": 0.05})
    assert parts == {"train": 90_000_000, "val": 5_000_000, "test": 5_000_000}
    assert build.split_lengths(1_115_394, build.SPLITS) == {"train": 1_003_854, "val": 111_540}
    assert all(build.split_lengths(n, build.SPLITS)["train"] == int(n * 0.9) for n in range(1, 3000))


# Reading.


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
    long, first = len(tokens) - 3, data.tokens["train"][0]
    starts = {tuple(row.tolist()) for seed in range(20) for row in data.batch(seed, 8, long)[0][:, :9]}
    assert len(starts) == 3, "a window begins at every place where it fits"
    assert any(start[0] == first for start in starts)


@pytest.mark.parametrize("at_once", [16, 100, 1 << 14])
def test_windows_predict_every_token_once(corpus, at_once, monkeypatch):
    monkeypatch.setattr("data.corpus.batch_tokens", lambda *_: at_once)
    x, y = (
        torch.cat([part.flatten() for part in side]) for side in zip(*Corpus(str(corpus)).windows("val", 16))
    )
    tokens = tokens_of(corpus, "val")
    assert np.array_equal(y, tokens[1:])
    assert np.array_equal(x, tokens[:-1])


def test_a_batch_of_windows_on_a_card_has_logits_of_a_gigabyte_at_most():
    card = torch.device("cuda")
    assert 2**29 < 4 * 50_257 * batch_tokens(card, 50_257) <= 2**30
    assert batch_tokens(card, 65) == 2**15


def test_capped_windows_are_whole_spread_and_within_the_cap(corpus):
    data, tokens = Corpus(str(corpus)), tokens_of(corpus, "train")
    rows = torch.cat([x for x, _ in data.windows("train", 16, most_tokens=1000)])
    assert rows.shape == (62, 16)
    whole = (len(tokens) - 1) // 16
    assert np.array_equal(rows, np.stack([tokens[i * whole // 62 * 16 :][:16] for i in range(62)]))


def test_tokens_beyond_int16_survive(tmp_path):
    """GPT-2's vocabulary has 50,257 tokens; torch indexes int16 and not uint16 on every device."""
    text = "".join(chr(0x10000 + i) for i in range(50_257))
    data = Corpus(str(write_corpus(tmp_path / "c", text)))
    seen = torch.cat([y.flatten() for split in ("train", "val") for _, y in data.windows(split, 64)])
    wanted = [token for token in range(50_257) if token not in (0, int(50_257 * 0.9))]
    assert seen.tolist() == wanted


def test_a_corpus_that_does_not_fit_names_the_option(corpus, monkeypatch):
    with pytest.raises(UserError, match=r"val split.*block_size"):
        Corpus(str(corpus)).check_length(5000)
    with pytest.raises(UserError, match="train_tokens"):
        Corpus(str(corpus), train_tokens=1_000_000)
    part = Corpus(str(corpus), train_tokens=100).tokens
    assert (len(part["train"]), len(part["val"])) == (100, len(tokens_of(corpus, "val")))
    with pytest.raises(UserError, match=r"dataset='shakespear_char'.*'shakespeare_char'"):
        Corpus("shakespear_char")
    monkeypatch.setenv("HOME", str(corpus.parent))
    monkeypatch.setenv("USERPROFILE", str(corpus.parent))
    assert Corpus(f"~/{corpus.name}").meta == Corpus(str(corpus)).meta


def with_fewer_symbols(meta):
    """As of a corpus that was prepared before there was a hash of the vocabulary."""
    del meta["vocabulary_sha256"]
    return meta | {"vocabulary": meta["vocabulary"][:-1], "vocab_size": meta["vocab_size"] - 1}


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        ("val.bin", lambda val: val[:2], "--force"),
        ("val.bin", lambda val: val[::-1], "--force"),
        ("val.bin", None, "--force"),
        *(
            ("meta.json", damage, r"meta\.json.*--force")
            for damage in (
                lambda meta: meta.replace(b'"format": ', b'"format": 9'),
                lambda meta: meta[:9],
                lambda meta: b"null",
                lambda meta: meta.replace(b'"A"', b'"Z"'),
                lambda meta: json.dumps(with_fewer_symbols(json.loads(meta))).encode(),
            )
        ),
    ],
)
def test_damaged_files_are_refused_with_the_mend(tmp_path, file, damage, named):
    path = write_corpus(tmp_path / "c", TEXT) / file
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    with pytest.raises(UserError, match=named):
        Corpus(str(path.parent))


def metas(corpus):
    """{unit: a whole meta}."""
    meta = read_json(corpus / "meta.json") | {"partial": {"tokens": 9, "of": 99}}
    size, special = meta["vocab_size"], {"pattern": ".", "special": ["<|endoftext|>"]}
    vocabularies = {
        "character": meta["vocabulary"],
        "byte": list(range(size)),
        "token": [*map(str, range(size - 1)), *special["special"]],
    }
    made = {unit: meta | {"unit": unit, "vocabulary": symbols} for unit, symbols in vocabularies.items()}
    made["token"] |= special
    return {unit: meta | {"vocabulary_sha256": vocabulary_sha256(meta)} for unit, meta in made.items()}


def entries(value, place=()):
    """The places of all entries of a meta, of the vocabulary the first and the last."""
    keys = value if isinstance(value, dict) else (0, -1) if isinstance(value, list) else ()
    for key in keys:
        yield (*place, key)
        yield from entries(value[key], (*place, key))


NAMES = [("name",), ("source", "from"), ("source", "sha256")]  # any text will do
OPTIONAL = [("partial",), ("vocabulary_sha256",)]
LOST = object()


@pytest.mark.parametrize("unit", ["character", "byte", "token"])
def test_a_meta_with_any_entry_of_another_shape_is_refused(corpus, unit):
    whole = metas(corpus)[unit]
    assert fault_in(whole) is None
    strange = [None, True, -1, 0.5, 10**20, "", "strange", [], [[]], {}, {"a": 1}, LOST]
    assert all(fault_in(value) for value in strange)
    accepted = set()
    for place, value in itertools.product(entries(whole), strange):
        meta = holder = copy.deepcopy(whole)
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value
        if value is LOST:
            del holder[place[-1]]
        if fault_in(meta) is None:
            accepted.add((place, str(value)))
    tokens = {(place, str(10**20)) for place in entries(whole) if place[-1] in ("tokens", "of")}
    free = {(name, text) for name in NAMES for text in ("", "strange")}
    assert accepted == tokens | free | {(name, str(LOST)) for name in OPTIONAL}


def test_the_vocabulary_is_part_of_what_a_corpus_is(corpus, tmp_path):
    meta, other = (
        read_json(write_corpus(tmp_path / n, t) / "meta.json") for n, t in zip("ab", ("abba" * 9, "cddc" * 9))
    )
    assert meta["splits"] == other["splits"]
    assert not same_corpus(meta, other)
    assert not same_corpus(meta, meta | {"unit": "byte"})
    assert not same_corpus(meta, read_json(corpus / "meta.json"))
    assert same_corpus(meta, meta | {"name": "moved", "source": {"from": "-", "sha256": "-"}})
    old = {name: value for name, value in meta.items() if name != "vocabulary_sha256"}
    assert fault_in(old) is None
    assert fault_in(old | {"vocabulary": meta["vocabulary"][::-1]}) == "vocabulary", "its tokens mean others"


def test_noised_inputs_are_replaced_at_the_rate_and_from_the_unigram_distribution(corpus):
    data = Corpus(str(corpus))
    x = torch.full((40 * 64, 128), -7)  # no symbol: every change shows
    noised = data.noised(x, 1, 0.25)
    changed = noised[noised != -7]
    n, tokens = len(changed), data.tokens["train"].long()
    assert n / x.numel() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / x.numel()) ** 0.5)
    unigram = torch.bincount(tokens) / len(tokens)
    error = 4.5 * (unigram * (1 - unigram) / n).sqrt() + 1e-9
    assert ((torch.bincount(changed, minlength=len(unigram)) / n - unigram).abs() < error).all()
    assert torch.equal(data.noised(x, 1, 0.25), noised)
    assert not torch.equal(data.noised(x, 2, 0.25), noised)
    assert (x == -7).all()
